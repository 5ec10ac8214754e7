"""Sizes that depend on the values of a request, which no later stage can prune or prove."""

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from recprune_export.error_text import describe_place
from recprune_export.errors import CaptureError
from recprune_export.program.nodes import ancestors, find_source_line


def refuse_sizes_by_values(module: fx.GraphModule) -> None:
    """Raise `CaptureError` where an answer depends on a tensor whose size depends on the values of a request."""
    (output,) = [node for node in module.graph.nodes if node.op == "output"]
    read = ancestors([value for value in output.args[0] if isinstance(value, fx.Node)])
    for node in module.graph.nodes:
        value = node.meta.get("val")
        if node in read and isinstance(value, Tensor) and free_unbacked_symbols(value.shape):
            place = describe_place(find_source_line(node))
            name = (
                str(node.target).removesuffix(".default")
                if isinstance(node.target, torch._ops.OpOverload)
                else node.name
            )
            raise CaptureError(
                f"How many numbers {name}{place} gives depends on the values of the request: compute with all "
                "rows and a mask instead (torch.where, masked_fill), or look the distinct ids up before the request."
            )
