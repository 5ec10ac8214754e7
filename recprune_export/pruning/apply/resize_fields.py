"""How the operators around a field go on without it: concatenations and sums lose an operand, lookups of columns a column."""

import operator

import torch
from torch import fx

from recprune_export.channels.rules.data_movement import SPLITS
from recprune_export.channels.rules.elementwise import BINARY_SUMS
from recprune_export.program.nodes import argument, arguments
from recprune_export.pruning.apply.resize import GraphResizer, find_remaining_outputs, resize_rule

aten = torch.ops.aten


@resize_rule(aten.cat.default, aten.stack.default)
def join(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`cat([x, y, z], axis)` without those of its operands that go as a whole, or whose one index goes."""
    return resizing.call(node.target, resizing.remaining_operands(node), *arguments(node)[1:], **node.kwargs)


@resize_rule(*BINARY_SUMS)
def add(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`x ± α·y` without x or without y."""
    left, right = arguments(node)[:2]
    gone = [isinstance(operand, fx.Node) and resizing.is_removed(operand) for operand in (left, right)]
    if not any(gone):
        return resizing.copy(node)
    if gone[1]:
        return resizing.new[left]
    sign = -1 if node.target is aten.sub.Tensor else 1
    factor = sign * argument(node, "alpha")
    return resizing.new[right] if factor == 1 else resizing.call(aten.mul.Tensor, right, factor)


@resize_rule(aten.embedding.default)
def lookup(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`embedding(E, ids: B×F)`: columns of ids whose fields go are left out; the rows of E stay, for ids may be anywhere."""
    table, ids, *rest = arguments(node)
    for axis in range(ids.meta["val"].ndim):
        kept, already = resizing.find_remaining_indices(node, axis), resizing.find_remaining_indices(ids, axis)
        if kept is not None and already is None:
            columns = resizing.constant(node, torch.tensor(kept), f"columns{axis}")
            ids = resizing.call(aten.index_select.default, ids, axis, columns)
    return resizing.call(node.target, table, ids, *rest, **node.kwargs)


@resize_rule(operator.getitem)
def output(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`unbind(x)[i]`: the number counts what is left before it."""
    source, position = arguments(node)
    if source.target is not aten.unbind.int and source.target not in SPLITS:
        return resizing.copy(node)
    return resizing.call(node.target, source, find_remaining_outputs(resizing, source).index(position))
