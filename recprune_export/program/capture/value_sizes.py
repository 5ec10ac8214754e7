"""Sizes and numbers that are read from the values of a request, which no later stage can prune or prove."""

import sympy
import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from recprune_export.error_text import describe_place
from recprune_export.errors import CaptureError
from recprune_export.program.capture.passes.read_sizes import READS
from recprune_export.program.capture.passes.replace_constant_masks import find_constant_indexing
from recprune_export.program.nodes import ancestors, find_source_line


def refuse_sizes_by_values(module: fx.GraphModule) -> None:
    """Raise `CaptureError` if an answer depends on a tensor whose size depends on the values of a request."""
    read = _find_answered(module)
    known = {symbol for node in find_constant_indexing(module) for symbol in _symbols_of_values(node)}
    for node in module.graph.nodes:
        if node in read and _symbols_of_values(node) - known:
            place = describe_place(find_source_line(node))
            name = (
                str(node.target).removesuffix(".default")
                if isinstance(node.target, torch._ops.OpOverload)
                else node.name
            )
            raise CaptureError(
                f"The size of the result of {name}{place} depends on the values of the request: compute "
                "with all rows and a mask instead (torch.where, masked_fill), or compute the distinct ids before the request."
            )


def refuse_read_values(module: fx.GraphModule) -> None:
    """Raise `CaptureError` if an answer depends on a number that the model reads from a tensor of the request."""
    reading = next((node for node in _find_answered(module) if node.target in READS), None)
    if reading is not None:
        raise CaptureError(
            f"The model reads a number from a tensor{describe_place(find_source_line(reading))}, by .item(), .tolist(), float() "
            "or int(), and computes its answers with it, which a graph cannot contain: compute with the tensor itself instead."
        )


def _find_answered(module: fx.GraphModule) -> dict[fx.Node, None]:
    """Return the nodes on which an answer depends."""
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    return ancestors([value for value in output.args[0] if isinstance(value, fx.Node)])


def _symbols_of_values(node: fx.Node) -> set[sympy.Symbol]:
    value = node.meta.get("val")
    return set(free_unbacked_symbols(value.shape)) if isinstance(value, Tensor) else set()
