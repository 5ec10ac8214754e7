"""Normalization: statistics over the batch keep channels separate, statistics over channels keep the original count."""

import torch
from torch import Tensor, fx

from recprune_export.channels.dependency_sets import untagged_like
from recprune_export.channels.tags import TensorTags
from recprune_export.channels.walk import NodeTags, Walk, rule
from recprune_export.program.nodes import argument

aten = torch.ops.aten


@rule(aten.batch_norm.default)
def batch_norm(walk: Walk, node: fx.Node) -> NodeTags:
    """`batch_norm(x: B×C×..., ...: C)`: weight, bias and statistics are removed with channel c of axis 1."""
    x, *per_channel = (walk.tags(argument) for argument in node.args[:5])
    assert x is not None
    for vector in per_channel:
        if vector is not None:
            walk.equate(node, x.removed_by[1], vector.removed_by[0], "its batch-norm keeps its width")
    zero_when_masked = _affine_zeroes(walk, x, 1, per_channel[0], per_channel[1], centered=True)
    return TensorTags(
        x.removed_by, zero_when_masked, tuple(map(walk.sets.union, zero_when_masked, x.constant_when_masked))
    )


@rule(aten._native_batch_norm_legit_no_training.default)
def batch_norm_inference(walk: Walk, node: fx.Node) -> NodeTags:
    """`batch_norm` after decomposition; the two outputs besides the values are empty."""
    untagged = walk.make_untagged(walk.env[node])
    normalized = batch_norm(walk, node)
    assert isinstance(untagged, tuple)
    assert isinstance(normalized, TensorTags)
    return (normalized, *untagged[1:])


@rule(aten.instance_norm.default, aten.group_norm.default)
def group_norm(walk: Walk, node: fx.Node) -> NodeTags:
    """`group_norm(x: B×C×L, 2, ...)`: the statistics of a request run over channels and space, which are frozen."""
    for name in ("input", "weight", "bias"):
        tags = walk.tags(argument(node, name))
        for axis in tags.removed_by if tags is not None else ():
            walk.freeze(node, axis, "it is normalized together with another axis")
    return walk.make_untagged(walk.env[node])


@rule(aten.layer_norm.default)
def layer_norm(walk: Walk, node: fx.Node) -> NodeTags:
    """`layer_norm(x: B×L×D, [D], g: D, b: D)`: d may be removed if it is zero or constant when masked.

    The statistics still count D channels.
    """
    x, weight, bias = (walk.tags(argument(node, name)) for name in ("input", "weight", "bias"))
    assert x is not None
    return _over_channels(walk, node, x, len(walk.value(node.args[1])), weight, bias, centered=True)


@rule(aten.rms_norm.default)
def rms_norm(walk: Walk, node: fx.Node) -> NodeTags:
    """`rms_norm(x: B×L×D, [D], g: D)`: as `layer_norm`, and a zero remains zero without a gain."""
    x, weight = (walk.tags(argument(node, name)) for name in ("input", "weight"))
    assert x is not None
    return _over_channels(walk, node, x, len(walk.value(node.args[1])), weight, None, centered=False)


def _over_channels(
    walk: Walk,
    node: fx.Node,
    x: TensorTags,
    rank: int,
    weight: TensorTags | None,
    bias: TensorTags | None,
    centered: bool,
) -> TensorTags:
    if rank > 1:
        for tags in (x, weight, bias):
            for axis in tags.removed_by[-rank:] if tags is not None else ():
                walk.freeze(node, axis, "it is normalized together with another axis")
        return x.without_zero_tags()
    reason = "it is normalized over, and masking would not make it constant"
    walk.require_zero(node, x.removed_by[-1], x.constant_when_masked[-1], reason)
    for vector in (weight, bias):
        if vector is not None:
            walk.equate(node, x.removed_by[-1], vector.removed_by[0], "its gain keeps its width")
    return TensorTags(x.removed_by, _affine_zeroes(walk, x, len(x.shape) - 1, weight, bias, centered))


def _affine_zeroes(
    walk: Walk, x: TensorTags, axis: int, weight: TensorTags | None, bias: TensorTags | None, centered: bool
) -> tuple[Tensor, ...]:
    """Return the zeros after the affine map: a channel is zero if gain and bias are masked too; centering moves zeros."""
    zero_when_masked = [untagged_like(ids) for ids in x.removed_by]
    zeros = (
        weight.zero_when_masked[0]
        if weight is not None
        else untagged_like(x.removed_by[axis])
        if centered
        else x.zero_when_masked[axis]
    )
    zero_when_masked[axis] = walk.sets.intersection(zeros, bias.zero_when_masked[0]) if bias is not None else zeros
    return tuple(zero_when_masked)
