"""Attention whose mask may exclude all positions of a row, as for a history that is all padding.

PyTorch's `scaled_dot_product_attention` returns zero for such a row; the exporter's softmax over minus infinity is NaN.
"""

import math

import torch
from torch import Tensor, fx

from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import ancestors, argument
from recprune_export.program.program import Program

aten = torch.ops.aten


def guard_empty_rows(program: Program) -> Program:
    """Return `program` with finite masks and zero results in each attention whose mask may exclude all of a row.

    These are floating-point masks, B×H×L×M, that depend on the request and on a minus infinity.
    """
    guarded = program.with_copied_graph()
    graph, changed = guarded.module.graph, False
    for node in graph.find_nodes(op="call_function", target=aten.scaled_dot_product_attention.default):
        mask = argument(node, "attn_mask")
        if mask is not None and mask.meta["val"].is_floating_point() and _may_mask_whole_row(guarded.module, mask):
            _guard(graph, node, mask)
            changed = True
    for node in graph.find_nodes(op="call_function", target=aten.view.default) if changed else ():
        node.target = aten.reshape.default  # a view of the result relies on the memory layout of the attention kernel
    guarded.module.recompile()
    return guarded


def _guard(graph: fx.Graph, node: fx.Node, mask: fx.Node) -> None:
    with graph.inserting_before(node):
        allowed = graph.call_function(aten.gt.Scalar, (mask, -math.inf))
        is_empty = graph.call_function(
            aten.logical_not.default, (graph.call_function(aten.any.dim, (allowed, -1, True)),)
        )
        finite = graph.call_function(aten.clamp_min.default, (mask, torch.finfo(mask.meta["val"].dtype).min))
    node.replace_input_with(mask, finite)
    with graph.inserting_after(node):
        result = graph.call_function(aten.masked_fill.Scalar, (node, is_empty, 0.0))
    node.replace_all_uses_with(result, delete_user_cb=lambda user: user is not result)


def _may_mask_whole_row(module: fx.GraphModule, mask: fx.Node) -> bool:
    """Return whether the mask depends on the request and on a minus infinity, as a scalar or in a constant."""
    sources = ancestors([mask])
    return any(node.op == "placeholder" for node in sources) and any(_holds_infinity(module, node) for node in sources)


def _holds_infinity(module: fx.GraphModule, node: fx.Node) -> bool:
    if node.op != "get_attr":
        return any(isinstance(a, float) and a == -math.inf for a in (*node.args, *node.kwargs.values()))
    tensor: Tensor = tensor_at(module, str(node.target))
    return tensor.is_floating_point() and bool(torch.isneginf(tensor).any())
