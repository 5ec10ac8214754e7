"""`export_onnx`: a program as an ONNX file that `onnx.checker` accepts."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    RemoveUnusedNodesPass,
)

from recprune_export.errors import ExportError
from recprune_export.onnx.passes.attention import lean_attention
from recprune_export.onnx.passes.batch_norm import fold_batch_norm
from recprune_export.onnx.passes.early_pick import pick_early
from recprune_export.onnx.passes.interface import name_interface
from recprune_export.onnx.passes.metadata import strip_metadata
from recprune_export.onnx.passes.name_batch import name_batch
from recprune_export.onnx.passes.sums import sum_by_product
from recprune_export.onnx.passes.tied_tables import share_transposed
from recprune_export.onnx.simplify import simplify
from recprune_export.onnx.translations import missing_translations
from recprune_export.program.program import Program

EXTERNAL_FROM = 1_500_000_000  # bytes of weights; a protobuf file ends at 2 GiB
PASSES: tuple[Callable[[ir.Model], object], ...] = (
    share_transposed,
    fold_batch_norm,
    lean_attention,
    RemoveUnusedNodesPass(),  # what is computed for nobody would seem to need every position
    pick_early,
    sum_by_product,
    DeduplicateInitializersPass(size_limit=1 << 20),
    CommonSubexpressionEliminationPass(),
    RemoveUnusedNodesPass(),
    name_batch,
    strip_metadata,
)
_TRAINING_ONLY = {"Dropout", "BatchNormalization"}


@dataclass(frozen=True)
class OnnxFile:
    """A model that was written: the operator set, and the file of its weights where they lie apart."""

    path: Path
    opset: int
    data: Path | None

    @property
    def bytes(self) -> int:
        """Size of the model, weights included."""
        return self.path.stat().st_size + (self.data.stat().st_size if self.data else 0)


def export_onnx(program: Program, path: Path, external_from: int = EXTERNAL_FROM) -> OnnxFile:
    """Write `program` to `path`, inputs and outputs named by its signature, the batch symbolic.

    Weights of `external_from` bytes or more go to `<path>.data`. Every weight is written as it is, so zeros stay exact;
    a batch-norm is folded, a dropout is gone. Nothing in the file tells of the source code that the model came from.

    Raises `ExportError` where an operator has no ONNX form, or where an input and an output share a name.
    """
    model = _translate(program)
    for rewrite in PASSES:
        rewrite(model)
    name_interface(model, [i.name for i in program.signature.inputs], [o.name for o in program.signature.outputs])
    left = sorted({node.op_type for node in model.graph} & _TRAINING_ONLY)
    if left:
        raise ExportError(
            f"The ONNX graph still contains {left[0]}; freeze its statistics in the model (module.eval())."
        )
    weights = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None
    )
    data = path.with_name(path.name + ".data") if weights >= external_from else None
    ir.save(model, path, external_data=data.name if data else None)
    _check(path, whole=data is None)
    return OnnxFile(path, model.opset_imports[""], data)


def _translate(program: Program) -> ir.Model:
    try:
        with _silence():
            exported = torch.onnx.export(
                program.exported(),
                dynamo=True,
                verbose=False,
                optimize=False,  # `simplify` does that
                custom_translation_table=missing_translations(),
            )
    except Exception as error:  # the exporter wraps the causes in many classes
        raise ExportError(f"The program cannot be expressed in ONNX: {_innermost(error)}") from error
    assert exported is not None
    simplify(exported.model)
    return exported.model


def _innermost(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's remarks on optional packages and on its own code off the user's screen; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _check(path: Path, whole: bool) -> None:
    try:
        onnx.checker.check_model(str(path), full_check=whole)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"The exported file does not pass onnx.checker: {str(error).splitlines()[0]}") from error
