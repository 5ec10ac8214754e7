"""Operators that reduce an axis: what is removed along it must count for nothing when masked."""

from typing import Any

import torch
from torch import fx

from recprune_export.channels.labels import Labels
from recprune_export.channels.walk import Described, Walk, argument, rule

aten = torch.ops.aten

_ADDITIVE = (
    aten.sum.default,
    aten.sum.dim_IntList,
    aten.mean.default,
    aten.mean.dim,
    aten.linalg_vector_norm.default,
    aten.norm.ScalarOpt_dim,
)
_SELECTIVE = (aten.amax.default, aten.amin.default, aten.prod.dim_int, aten.argmax.default, aten.any.dim, aten.all.dim)


def reduced_axes(node: fx.Node, rank: int) -> tuple[list[int], bool]:
    """Return the axes that a reduction removes, and whether they stay with size 1."""
    dim: Any = argument(node, "dim")
    dims = list(range(rank)) if dim in (None, []) else [dim] if isinstance(dim, int) else list(dim)
    return sorted(axis % rank for axis in dims) if rank else [], bool(argument(node, "keepdim"))


def _without_axes(labels: Labels, axes: list[int], keepdim: bool) -> Labels:
    one = torch.zeros(1, dtype=torch.int64)
    kept = [axis for axis in range(len(labels.removes)) if keepdim or axis not in axes]
    removes = tuple(one if axis in axes else labels.removes[axis] for axis in kept)
    return Labels(removes, tuple(one if axis in axes else labels.zeroes[axis] for axis in kept))


@rule(*_ADDITIVE)
def additive(walk: Walk, node: fx.Node) -> Described:
    """`sum(x: B×F×D, -1)`: index d may go if it is zero when masked. A mean keeps its divisor."""
    labels = walk.labels(node.args[0])
    assert labels is not None
    axes, keepdim = reduced_axes(node, len(labels.shape))
    for axis in axes:
        walk.require_zero(
            node, labels.removes[axis], labels.zeroes[axis], "it is summed, and would not be zero when masked"
        )
    return _without_axes(labels, axes, keepdim)


@rule(*_SELECTIVE)
def selective(walk: Walk, node: fx.Node) -> Described:
    """`amax(x: B×L×D, 1)`: a masked index would still compete, so axis L is frozen; D goes through."""
    labels = walk.labels(node.args[0])
    assert labels is not None
    axes, keepdim = reduced_axes(node, len(labels.shape))
    for axis in axes:
        walk.freeze(node, labels.removes[axis], "the maximum or product is taken over it")
    return _without_axes(labels, axes, keepdim).without_zeroes()


@rule(aten.softmax.int, aten._softmax.default, aten.log_softmax.int)
def softmax(walk: Walk, node: fx.Node) -> Described:
    """`softmax(x: B×E, 1)`: a masked index would still have a share, so axis E is frozen."""
    labels = walk.labels(node.args[0])
    assert labels is not None
    walk.freeze(node, labels.removes[walk.value(node.args[1])], "softmax is taken over it")
    return labels.without_zeroes()


@rule(aten.cumsum.default)
def cumsum(walk: Walk, node: fx.Node) -> Described:
    """`cumsum(x: B×D, 1)`: leaving out a zero changes no other sum."""
    labels = walk.labels(node.args[0])
    assert labels is not None
    axis = walk.value(node.args[1]) % len(labels.shape)
    walk.require_zero(
        node, labels.removes[axis], labels.zeroes[axis], "it is summed, and would not be zero when masked"
    )
    zeroes = list(labels.zeroes)
    zeroes[axis] = torch.zeros_like(zeroes[axis])
    return Labels(labels.removes, tuple(zeroes))
