"""Operators that reduce an axis: indices removed from it must not contribute when masked."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.channels.dependency_sets import has_tags, untagged_like
from recprune_export.channels.tags import TensorTags, make_untagged_axis
from recprune_export.channels.walk import NodeTags, Walk, rule
from recprune_export.program.nodes import argument

aten = torch.ops.aten

SUMS = (aten.sum.default, aten.sum.dim_IntList, aten.mean.default, aten.mean.dim)
_NORMS = (
    aten.linalg_vector_norm.default,
    aten.norm.Scalar,
    aten.norm.ScalarOpt_dim,
    aten.frobenius_norm.dim,
    aten.count_nonzero.dim_IntList,
)
_SELECTIVE = (
    aten.all.default,
    aten.all.dim,
    aten.amax.default,
    aten.amin.default,
    aten.any.default,
    aten.any.dim,
    aten.argmax.default,
    aten.argmin.default,
    aten.logsumexp.default,
    aten.max.default,
    aten.min.default,
    aten.prod.default,
    aten.prod.dim_int,
    aten.std.correction,
    aten.std.default,
    aten.std.dim,
    aten.var.correction,
    aten.var.default,
    aten.var.dim,
)
SOFTMAXES = (aten.softmax.int, aten._softmax.default, aten.log_softmax.int, aten._log_softmax.default)
_ORDERED = (
    aten.aminmax.default,
    aten.argsort.default,
    aten.cummax.default,
    aten.cumprod.default,
    aten.kthvalue.default,
    aten.logcumsumexp.default,
    aten.max.dim,
    aten.median.dim,
    aten.min.dim,
    aten.mode.default,
    aten.sort.default,
    aten.sort.stable,
    aten.topk.default,
)
COMPETITIONS = frozenset({*_SELECTIVE, *SOFTMAXES, *_ORDERED})  # compare or sort indices


def reduced_axes(node: fx.Node, rank: int) -> tuple[list[int], bool]:
    """Return the axes that a reduction removes, and whether they are kept with size 1."""
    dim: Any = argument(node, "dim")
    dims = list(range(rank)) if dim in (None, []) else [dim] if isinstance(dim, int) else list(dim)
    return sorted(axis % rank for axis in dims) if rank else [], bool(argument(node, "keepdim"))


def _without_axes(tags: TensorTags, axes: list[int], keepdim: bool) -> TensorTags:
    remaining = [axis for axis in range(len(tags.removed_by)) if keepdim or axis not in axes]
    return tags.take_axes([None if axis in axes else axis for axis in remaining])


@rule(*SUMS)
def additive(walk: Walk, node: fx.Node) -> NodeTags:
    """`sum(x: B×F×D, -1)`: index d may be removed if it is the same for every request when masked: a constant is added.

    A mean keeps its divisor.
    """
    tags = walk.tags(node.args[0])
    assert tags is not None
    axes, keepdim = reduced_axes(node, len(tags.shape))
    for axis in axes:
        reason = "it is summed, and masking would not make it constant"
        walk.require_zero(node, tags.removed_by[axis], tags.constant_when_masked[axis], reason)
    return _without_axes(tags, axes, keepdim)


@rule(*_NORMS)
def norm(walk: Walk, node: fx.Node) -> NodeTags:
    """`linalg_vector_norm(x: B×D, 2, [1])`: index d may be removed if it is zero when masked.

    A negative order freezes it: (Σ |x|^p)^(1/p) is zero if one x is.
    """
    tags = walk.tags(node.args[0])
    assert tags is not None
    axes, keepdim = reduced_axes(node, len(tags.shape))
    order = next((value for name in ("ord", "p") if (value := argument(node, name)) is not None), 2)
    if order < 0:
        return selective(walk, node)
    for axis in axes:
        walk.require_zero(
            node,
            tags.removed_by[axis],
            tags.zero_when_masked[axis],
            "it is summed, and would not be zero when masked",
        )
    return _without_axes(tags, axes, keepdim)


@rule(*_SELECTIVE)
def selective(walk: Walk, node: fx.Node) -> NodeTags:
    """`amax(x: B×L×D, 1)`: a masked index would still compete, so axis L is frozen; D keeps its tags."""
    tags = walk.tags(node.args[0])
    assert tags is not None
    axes, keepdim = reduced_axes(node, len(tags.shape))
    for axis in axes:
        walk.freeze(node, tags.removed_by[axis], "a maximum or product is computed over it")
    return _without_axes(tags, axes, keepdim).without_zero_tags()


@rule(*_ORDERED)
def ordered(walk: Walk, node: fx.Node) -> NodeTags:
    """`topk(x: B×L×D, k, 1)`: values and indices along L depend on all of L, which is frozen; D keeps its tags."""
    tags = walk.tags(node.args[0])
    assert tags is not None
    dim = argument(node, "dim")
    axis = (-1 if dim is None else dim) % len(tags.shape)
    walk.freeze(node, tags.removed_by[axis], "it is sorted, or its largest elements are selected")
    value = walk.env[node]
    outputs = value if isinstance(value, (tuple, list)) else [value]
    described = tuple(_with_untagged_axis(tags, axis, output.shape) for output in outputs)
    return described if isinstance(value, (tuple, list)) else described[0]


def _with_untagged_axis(tags: TensorTags, axis: int, shape: Sequence[int]) -> TensorTags:
    """Return the tags after axis `axis` was dropped or got another size."""
    if len(shape) < len(tags.shape):
        return _without_axes(tags, [axis], keepdim=False).without_zero_tags()
    sides: list[list[Tensor]] = [list(tags.removed_by), list(tags.constant_when_masked)]
    for side in sides:
        side[axis] = make_untagged_axis(shape[axis])
    return TensorTags(tuple(sides[0]), tuple(untagged_like(ids) for ids in sides[0]), tuple(sides[1]))


@rule(*SOFTMAXES)
def softmax(walk: Walk, node: fx.Node) -> NodeTags:
    """`softmax(x: B×E, 1)`: e may be removed if it is the same for every request when masked: the sum still includes it.

    The result is neither zero nor the same for every request. Fields are frozen, and so are learned logits, because removing one matters
    much and saves only one parameter.
    """
    tags = walk.tags(node.args[0])
    assert tags is not None
    axis = argument(node, "dim") % len(tags.shape)
    if tags.constant or has_tags(walk.sets.field_tags_in(tags.removed_by[axis])):
        walk.freeze(node, tags.removed_by[axis], "softmax is computed over it")
    reason = "softmax is computed over it, and masking would not make it constant"
    walk.require_zero(node, tags.removed_by[axis], tags.constant_when_masked[axis], reason)
    constant_when_masked = list(tags.constant_when_masked)
    constant_when_masked[axis] = untagged_like(constant_when_masked[axis])
    return TensorTags(
        tags.removed_by, tuple(untagged_like(ids) for ids in tags.removed_by), tuple(constant_when_masked)
    )


@rule(aten.cumsum.default)
def cumsum(walk: Walk, node: fx.Node) -> NodeTags:
    """`cumsum(x: B×D, 1)`: a removed zero changes no other sum."""
    tags = walk.tags(node.args[0])
    assert tags is not None
    axis = walk.value(node.args[1]) % len(tags.shape)
    walk.require_zero(
        node, tags.removed_by[axis], tags.zero_when_masked[axis], "it is summed, and would not be zero when masked"
    )
    zero_when_masked, constant_when_masked = list(tags.zero_when_masked), list(tags.constant_when_masked)
    zero_when_masked[axis] = constant_when_masked[axis] = untagged_like(zero_when_masked[axis])
    return TensorTags(
        tags.removed_by,
        tuple(zero_when_masked),
        tuple(constant_when_masked),
        removed_entirely_by=tags.removed_entirely_by,
    )


@rule(aten.fft_rfft.default, aten.fft_irfft.default, aten.fft_fft.default, aten.fft_ifft.default)
def fourier(walk: Walk, node: fx.Node) -> NodeTags:
    """`fft_rfft(x: B×L×D, dim=1)`: L is transformed as a whole and frozen; D keeps its tags, and a zero remains zero."""
    tags = walk.tags(argument(node, "self"))
    assert tags is not None
    axis = argument(node, "dim") % len(tags.shape)
    walk.freeze(node, tags.removed_by[axis], "a Fourier transform is computed over it")
    order = [None if position == axis else position for position in range(len(tags.shape))]
    rest = tags.take_axes(order)
    size = walk.env[node].shape[axis]

    def stretched(field: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (*field[:axis], make_untagged_axis(size), *field[axis + 1 :])

    return TensorTags(
        stretched(rest.removed_by), stretched(rest.zero_when_masked), stretched(rest.constant_when_masked)
    )
