"""Refuse sizes that depend on the values of a request, which later stages can neither prune nor check."""

import sympy
import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from recprune_export.error_text import describe_place
from recprune_export.errors import CaptureError
from recprune_export.program.capture.passes.replace_constant_masks import find_constant_indexing
from recprune_export.program.nodes import ancestors, find_source_line


def refuse_sizes_by_values(module: fx.GraphModule) -> None:
    """Raise `CaptureError` if an answer depends on a tensor whose size depends on the values of a request."""
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    read = ancestors([value for value in output.args[0] if isinstance(value, fx.Node)])
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


def _symbols_of_values(node: fx.Node) -> set[sympy.Symbol]:
    value = node.meta.get("val")
    return set(free_unbacked_symbols(value.shape)) if isinstance(value, Tensor) else set()
