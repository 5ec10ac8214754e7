"""Resize rules for removed fields: concatenations and sums lose an operand, lookups of several columns a column."""

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
    """`cat([x, y, z], axis)` without the operands that are removed entirely, or whose only index is removed."""
    return resizing.call(node.target, resizing.remaining_operands(node), *arguments(node)[1:], **node.kwargs)


@resize_rule(*BINARY_SUMS)
def add(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`x ± α·y` without a removed x or y."""
    left, right = arguments(node)[:2]
    removed = [isinstance(operand, fx.Node) and resizing.is_removed(operand) for operand in (left, right)]
    if not any(removed):
        return resizing.copy(node)
    if removed[1]:
        return resizing.new[left]
    sign = -1 if node.target is aten.sub.Tensor else 1
    factor = sign * argument(node, "alpha")
    return resizing.new[right] if factor == 1 else resizing.call(aten.mul.Tensor, right, factor)


@resize_rule(aten.embedding.default)
def lookup(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`embedding(E, ids: B×F)` without the columns of removed fields; the rows of E are kept, since any may be looked up."""
    table, ids, *rest = arguments(node)
    for axis in range(ids.meta["val"].ndim):
        remaining, ids_remaining = (
            resizing.find_remaining_indices(node, axis),
            resizing.find_remaining_indices(ids, axis),
        )
        if remaining is not None and ids_remaining is None:
            columns = resizing.constant(node, torch.tensor(remaining), f"columns{axis}")
            ids = resizing.call(aten.index_select.default, ids, axis, columns)
    return resizing.call(node.target, table, ids, *rest, **node.kwargs)


@resize_rule(operator.getitem)
def output(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`unbind(x)[i]`: the position of the output among the remaining ones."""
    source, position = arguments(node)
    if source.target is not aten.unbind.int and source.target not in SPLITS:
        return resizing.copy(node)
    return resizing.call(node.target, source, find_remaining_outputs(resizing, source).index(position))
