"""Tensors that the graph creates, filled with one value: they take any width."""

import torch
from torch import fx

from recprune_export.channels.tags import TensorTags
from recprune_export.channels.walk import NodeTags, Walk, rule

aten = torch.ops.aten


@rule(
    aten.zeros.default,
    aten.ones.default,
    aten.full.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
)
def filled(walk: Walk, node: fx.Node) -> NodeTags:
    """`zeros([B, D])`: B is the batch, D gets new tags."""
    value = walk.env[node]
    removed_by = tuple(
        torch.zeros(size, dtype=torch.int64) if fixed else walk.make_axis_tags(node, axis, size)
        for axis, (size, fixed) in enumerate(zip(value.shape, walk.varying_axes(node), strict=True))
    )
    tags = TensorTags(removed_by, removed_by)
    return tags.without_zero_tags() if bool(value.any()) else tags


@rule(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default)
def filled_like(walk: Walk, node: fx.Node) -> NodeTags:
    """`zeros_like(x)`: the tags of x."""
    tags = walk.tags(node.args[0])
    assert tags is not None
    if bool(walk.env[node].any()):
        return tags.without_zero_tags()
    return TensorTags(tags.removed_by, tags.removed_by, removed_entirely_by=tags.removed_entirely_by)


@rule(aten.sym_size.int)
def size(walk: Walk, node: fx.Node) -> NodeTags:
    """`sym_size(x, 0)`: a number, not a tensor."""
    return None
