"""Tensors made in the graph: filled with one value, they take any width."""

import torch
from torch import fx

from recprune_export.channels.tags import Labels
from recprune_export.channels.walk import Described, Walk, rule

aten = torch.ops.aten


@rule(
    aten.zeros.default,
    aten.ones.default,
    aten.full.default,
    aten.new_zeros.default,
    aten.new_ones.default,
    aten.new_full.default,
)
def filled(walk: Walk, node: fx.Node) -> Described:
    """`zeros([B, D])`: B follows the request, D whatever it is combined with."""
    value = walk.env[node]
    removes = tuple(
        torch.zeros(size, dtype=torch.int64) if fixed else walk.fresh(node, axis, size)
        for axis, (size, fixed) in enumerate(zip(value.shape, walk.fixed(node), strict=True))
    )
    labels = Labels(removes, removes)
    return labels.without_zeroes() if bool(value.any()) else labels


@rule(aten.zeros_like.default, aten.ones_like.default, aten.full_like.default)
def filled_like(walk: Walk, node: fx.Node) -> Described:
    """`zeros_like(x)`: as wide as x."""
    labels = walk.labels(node.args[0])
    assert labels is not None
    if bool(walk.env[node].any()):
        return labels.without_zeroes()
    return Labels(labels.removes, labels.removes, whole=labels.whole)


@rule(aten.sym_size.int)
def size(walk: Walk, node: fx.Node) -> Described:
    """The size of the batch: a number, no tensor."""
    return None
