"""`translate`: a program as an ONNX graph, by PyTorch's exporter."""

import contextlib
import copy
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any
from unittest import mock

import onnx_ir as ir
import torch
from torch import fx

from recprune_export.error_text import describe_place, summarize_error
from recprune_export.errors import ExportError
from recprune_export.onnx.empty_rows import guard_empty_rows
from recprune_export.onnx.graph import rename_equal_values
from recprune_export.onnx.optimizer._simplify import simplify
from recprune_export.onnx.streamed_tensors import replace_streamed_tables
from recprune_export.onnx.translations import missing_translations
from recprune_export.program.nodes import ancestors, find_source_line
from recprune_export.program.program import Program
from recprune_export.runtime_releases import DEFAULT_OPSET

# Libraries of operators that PyTorch's exporter translates, or decomposes.
_WITH_TRANSLATIONS = frozenset(
    {"aten", "prim", "prims", "higher_order", "torchvision", "torchaudio", "quantized_decomposed", "onnx"}
)


def translate(program: Program, opset: int = DEFAULT_OPSET) -> ir.Model:
    """Return the graph of `program` in an operator set, simplified; its weights are the tensors of the program, not copies.

    Time: in proportion to the nodes of the graph. Memory: that of the graph. Raises `ExportError` if an operator has no
    ONNX form.
    """
    try:
        with _suppress_messages(), _reuse_registry():
            exported = torch.onnx.export(
                guard_empty_rows(program).lifted(),
                dynamo=True,
                verbose=False,
                opset_version=min(opset, DEFAULT_OPSET),  # `set_opset` declares later ones
                optimize=False,  # `simplify` does that
                custom_translation_table=missing_translations(),
            )
    except Exception as error:  # the exporter wraps causes in many exception classes
        reason = _describe_root_cause(error)
        raise ExportError(
            f"The program cannot be expressed in ONNX{_name_operator(program, reason)}: {reason.rstrip('.')}. Use other PyTorch "
            "operators in the exported model, or compute this part before the request."
        ) from error
    assert exported is not None
    replace_streamed_tables(exported.model)
    rename_equal_values(exported.model.graph)
    with _suppress_messages():
        simplify(exported.model)
    return exported.model


@contextlib.contextmanager
def _reuse_registry() -> Iterator[None]:
    """Inside the block, the exporter fills its registry of translations only once for all exports, which saves .5 to .8 CPU seconds each.

    A release of PyTorch without this class fills a registry for each export.
    """
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        fill = ONNXRegistry.from_torchlib
    except (ImportError, AttributeError):
        yield
        return
    # Static, because a partial function in a class becomes a method in Python 3.14.
    with mock.patch.object(ONNXRegistry, "from_torchlib", staticmethod(partial(_copy_registry, fill))):
        yield


@lru_cache(maxsize=1)
def _fill_registry(fill: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return fill(*args, **kwargs)


def _copy_registry(fill: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return a separate registry for one export, which adds translations to it; the arguments are those of `fill`."""
    filled = _fill_registry(fill, *args, **kwargs)
    registry = copy.copy(filled)
    registry.functions = {target: list(translations) for target, translations in filled.functions.items()}
    return registry


def refuse_foreign_operators(program: Program) -> None:
    """Raise `ExportError` if the program calls an operator of another library that has no ONNX form.

    This is known before the job starts; the export finds operators of PyTorch without one.
    """
    foreign = [node for node in program.module.graph.nodes if _is_foreign(node)]
    if not foreign:
        return
    free = _list_outputs_without(program, foreign)
    without = f"leave out the outputs that it computes with --outputs {','.join(free)}, or " if free else ""
    raise ExportError(
        f"{_describe_foreign(foreign[0])}: {without}replace it by PyTorch operators in the exported model, or register a decomposition "
        "or an ONNX translation (docs/extending/custom-operator.md)."
    )


def list_foreign_operators(program: Program) -> tuple[str, ...]:
    """Return a sentence for each operator that `refuse_foreign_operators` refuses, with its first line in the model."""
    first = {_find_operator(node): node for node in reversed(program.module.graph.nodes) if _is_foreign(node)}
    return tuple(
        f"{_describe_foreign(node)}: a bundle requires a decomposition or an ONNX translation of it."
        for node in first.values()
    )


def _describe_foreign(node: fx.Node) -> str:
    target = _find_operator(node)
    assert target is not None
    place = describe_place(find_source_line(node))
    return f"The operator {target.namespace}::{target._opname}{place} belongs to another library and has no ONNX equivalent"


def _is_foreign(node: fx.Node) -> bool:
    target = _find_operator(node)
    if target is None or target.namespace in _WITH_TRANSLATIONS:
        return False
    return target not in missing_translations() and not target._can_decompose()


def _list_outputs_without(program: Program, nodes: Sequence[fx.Node]) -> list[str]:
    """Return the outputs that do not depend on any of `nodes`."""
    (output,) = [node for node in program.module.graph.nodes if node.op == "output"]
    answers = zip(program.signature.outputs, output.args[0], strict=True)
    return [spec.name for spec, value in answers if ancestors([value]).keys().isdisjoint(nodes)]


def _find_operator(node: fx.Node) -> torch._ops.OpOverload | None:
    """Return the operator that a node calls, even if it writes to its arguments and was made functional."""
    called = node.args[0] if node.args and isinstance(node.target, torch._ops.HigherOrderOperator) else node.target
    return called if isinstance(called, torch._ops.OpOverload) else None


def _name_operator(program: Program, reason: str) -> str:
    """Return the operator in the reason of the error, and its line in the user's code."""
    for node in program.module.graph.nodes:
        name = str(node.target)
        if node.op == "call_function" and name.count(".") and name.rpartition(".")[0] in reason:
            return (
                f", for {name.removesuffix('.default')}{describe_place(find_source_line(node))} has no equivalent there"
            )
    return ""


def _describe_root_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return summarize_error(error)


@contextlib.contextmanager
def _suppress_messages() -> Iterator[None]:
    """Suppress log messages and warnings of the exporter inside the block; errors still raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
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
