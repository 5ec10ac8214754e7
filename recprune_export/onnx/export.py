"""`export_onnx`: a program as an ONNX file that `onnx.checker` accepts."""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    RemoveUnusedNodesPass,
)

from recprune_export.errors import ExportError
from recprune_export.onnx.cost.machine import REFERENCE, Machine
from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.onnx.empty_rows import guard_empty_rows
from recprune_export.onnx.optimizer.passes.batch_norm_to_mul_add import batch_norm_to_mul_add
from recprune_export.onnx.optimizer.passes.clear_metadata import clear_metadata
from recprune_export.onnx.optimizer.passes.concat_slice import (
    concat_then_reshape,
    flatten_nested_concat,
    hoist_cast,
    merge_column_slices,
    slice_before_concat,
)
from recprune_export.onnx.optimizer.passes.eliminate_views import eliminate_views
from recprune_export.onnx.optimizer.passes.fold_scale_shift import fold_scale_shift
from recprune_export.onnx.optimizer.passes.fold_table_into_gemm import fold_table_into_gemm
from recprune_export.onnx.optimizer.passes.fuse_tables import fuse_tables
from recprune_export.onnx.optimizer.passes.gather_to_gathernd import gather_to_gathernd
from recprune_export.onnx.optimizer.passes.gathernd_to_flat_gather import gathernd_to_flat_gather
from recprune_export.onnx.optimizer.passes.gathernd_to_gather import gathernd_to_gather
from recprune_export.onnx.optimizer.passes.hoist_gather import hoist_gather
from recprune_export.onnx.optimizer.passes.matmul_add_to_gemm import matmul_add_to_gemm
from recprune_export.onnx.optimizer.passes.merge_tables_of_same_ids import merge_tables_of_same_ids
from recprune_export.onnx.optimizer.passes.name_batch import name_batch
from recprune_export.onnx.optimizer.passes.name_interface import name_interface
from recprune_export.onnx.optimizer.passes.reduce_sum_to_matmul import reduce_sum_to_matmul
from recprune_export.onnx.optimizer.passes.share_transposed_weights import share_transposed_weights
from recprune_export.onnx.optimizer.passes.shared_inputs import share_inputs
from recprune_export.onnx.optimizer.passes.simplify_attention import simplify_attention
from recprune_export.onnx.optimizer.passes.sort_concat_by_width import sort_concat_by_width
from recprune_export.onnx.optimizer.rewrite import (
    NO_LIMITS,
    TOLERANCE,
    NonzeroLimits,
    Pass,
    Probe,
    Rewrite,
    largest_relative_difference,
    rewrite,
)
from recprune_export.onnx.optimizer.simplify import simplify
from recprune_export.onnx.runtime.in_memory import make_in_memory_session
from recprune_export.onnx.saving import EXTERNAL_THRESHOLD, save_onnx
from recprune_export.onnx.translations import missing_translations
from recprune_export.program.program import Program
from recprune_export.program.random_requests import fill_input, sample_request
from recprune_export.program.signature import IdRange, Input, Signature

PROBE_ROWS = (1, 5)

# What the exporter writes in a form that is wrong, larger than it need be, or that no other pass would understand.
PASSES: tuple[Callable[[ir.Model], object], ...] = (
    gathernd_to_gather,
    share_transposed_weights,  # what is looked up
    batch_norm_to_mul_add,
    simplify_attention,
    name_batch,
    DeduplicateInitializersPass(size_limit=1 << 20),
    CommonSubexpressionEliminationPass(),
    RemoveUnusedNodesPass(),  # what is computed for nobody would seem to need every position
    fill_shapes,  # a rewrite goes no further than shapes are known
)
# Faster forms of the same graph: each is kept only where it proves itself.
REWRITES: tuple[Pass, ...] = (
    hoist_gather,
    slice_before_concat,
    flatten_nested_concat,
    fold_scale_shift,
    reduce_sum_to_matmul,
    sort_concat_by_width,
    fold_table_into_gemm,
    fuse_tables,
    merge_column_slices,
    hoist_cast,
    concat_then_reshape,
    gathernd_to_flat_gather,
    matmul_add_to_gemm,
    eliminate_views,
    merge_tables_of_same_ids,
    gather_to_gathernd,  # to every pass before, a lookup is a Gather
)
# Before inputs are shared: a part of a join of both kinds may be of one kind.
BEFORE_SHARING: tuple[Pass, ...] = (slice_before_concat, flatten_nested_concat)
LAST: tuple[Callable[[ir.Model], object], ...] = (
    DeduplicateInitializersPass(size_limit=1 << 20),
    CommonSubexpressionEliminationPass(),
    RemoveUnusedNodesPass(),
    clear_metadata,
)
_TRAINING_ONLY = {"Dropout", "BatchNormalization"}


@dataclass(frozen=True)
class ServingConfig:
    """How a model will be called: rows of a request, inputs that are the same in all rows of one, and the machine.

    The costs of rewrites are those on `machine`; the reference machine gives the same file everywhere.
    """

    batches: tuple[int, ...] = (1, 32, 256, 1024)
    shared: tuple[str, ...] = ()
    machine: Machine = REFERENCE


DEFAULT_SERVING = ServingConfig()


@dataclass(frozen=True)
class OnnxFile:
    """A model that was written: operator set, file of its weights where they lie apart, signature, what was rewritten."""

    path: Path
    opset: int
    data: Path | None
    signature: Signature
    rewrites: tuple[Rewrite, ...] = ()

    @property
    def bytes(self) -> int:
        """Size of the model, weights included."""
        return self.path.stat().st_size + (self.data.stat().st_size if self.data else 0)


def export_onnx(
    program: Program,
    path: Path,
    external_threshold: int = EXTERNAL_THRESHOLD,
    *,
    serving: ServingConfig = DEFAULT_SERVING,
    rewrites: Sequence[Pass] = REWRITES,
    limits: NonzeroLimits = NO_LIMITS,
) -> OnnxFile:
    """Write `program` to `path`, inputs and outputs named by its signature, the batch symbolic.

    Weights of `external_threshold` bytes or more go to `<path>.data`. Nothing in the file tells of the source code that the
    model came from. `rewrites` are tried in order, each is kept where it answers alike, costs no more for
    `serving.batches`, and leaves no more non-zeros than `limits`; with none of them the file is the original as PyTorch's
    exporter writes it, but for what would be wrong. Inputs in `serving.shared` have one row in the file, which stands
    for all rows of a request.

    Raises `ExportError` where an operator has no ONNX form, or where an input and an output share a name, and
    `UsageError` where `serving.shared` names what is no input.
    """
    signature = program.signature.with_shared(serving.shared)
    model = _translate(program)
    for each in PASSES:
        each(model)
    probes = _probes(program.signature)
    if serving.shared:
        model, probes = _share(model, signature, probes)
    model, report = rewrite(model, rewrites, probes, serving.batches, serving.machine, limits)
    for each in LAST:
        each(model)
    name_interface(model, [i.name for i in signature.inputs], [o.name for o in signature.outputs])
    left = sorted({node.op_type for node in model.graph} & _TRAINING_ONLY)
    if left:
        raise ExportError(
            f"The ONNX graph still contains {left[0]}; freeze its statistics in the model (module.eval())."
        )
    data = save_onnx(model, path, external_threshold)
    return OnnxFile(path, model.opset_imports[""], data, signature, report)


def _probes(signature: Signature) -> list[Probe]:
    """Requests on which two graphs are compared: drawn at random, and the lowest ids, where 0 may be padding."""

    def middle(spec: Input, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, sum(spec.observed or (0.0, 0.0)) / 2)

    def lowest(pair: IdRange, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, pair[0])

    drawn = [list(sample_request(signature, rows, seed=rows).values()) for rows in PROBE_ROWS]
    return [*drawn, [fill_input(i, PROBE_ROWS[-1], lowest, middle) for i in signature.inputs]]


def _share(
    model: ir.Model, signature: Signature, probes: Sequence[Probe], rewrites: Sequence[Pass] = BEFORE_SHARING
) -> tuple[ir.Model, list[Probe]]:
    """Split the graph by what is shared, after `rewrites`; return it with the probes as it takes them.

    Raises `ExportError` where it does not give the same answers.
    """
    shared = [position for position, spec in enumerate(signature.inputs) if spec.shared]
    split = model.clone()
    for each in rewrites:
        each(split)
    RemoveUnusedNodesPass()(split)
    share_inputs(split, shared)
    RemoveUnusedNodesPass()(split)
    fill_shapes(split)
    one_row: list[Probe] = [[array[:1] if i in shared else array for i, array in enumerate(probe)] for probe in probes]
    repeated = [
        [array[[0] * len(array)] if i in shared else array for i, array in enumerate(probe)] for probe in probes
    ]
    run_whole, run_split = make_in_memory_session(model), make_in_memory_session(split)
    error = max(
        largest_relative_difference(run_whole(whole), run_split(part))
        for whole, part in zip(repeated, one_row, strict=True)
    )
    if error > TOLERANCE:
        raise ExportError(
            f"With {', '.join(signature.inputs[i].name for i in shared)} shared, the model does not give the same answers "
            f"(they differ by {error:.1e} of the largest): its rows are not answered one by one. Export it without."
        )
    return split, one_row


def _translate(program: Program) -> ir.Model:
    try:
        with _silence():
            exported = torch.onnx.export(
                guard_empty_rows(program).lifted(),
                dynamo=True,
                verbose=False,
                optimize=False,  # `simplify` does that
                custom_translation_table=missing_translations(),
            )
    except Exception as error:  # the exporter wraps the causes in many classes
        raise ExportError(f"The program cannot be expressed in ONNX: {_innermost(error)}") from error
    assert exported is not None
    with _silence():
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
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
