"""Normalisation: statistics over the batch leave channels apart, statistics over channels keep the original count."""

import torch
from torch import Tensor, fx

from recprune_export.channels.tags import Labels
from recprune_export.channels.walk import Described, Walk, rule
from recprune_export.program.nodes import argument

aten = torch.ops.aten


@rule(aten.batch_norm.default)
def batch_norm(walk: Walk, node: fx.Node) -> Described:
    """`batch_norm(x: B×C×..., ...: C)`: weight, bias and statistics go with channel c of axis 1."""
    x, *per_channel = (walk.labels(argument) for argument in node.args[:5])
    assert x is not None
    for vector in per_channel:
        if vector is not None:
            walk.equate(node, x.removes[1], vector.removes[0], "its batch-norm keeps its width")
    zeroes = _affine_zeroes(walk, x, 1, per_channel[0], per_channel[1], centred=True)
    return Labels(x.removes, zeroes, tuple(map(walk.sets.union, zeroes, x.steady)))


@rule(aten._native_batch_norm_legit_no_training.default)
def batch_norm_in_serving(walk: Walk, node: fx.Node) -> Described:
    """The same after decomposition; the two outputs beside the values are empty."""
    nothing = walk.nothing(walk.env[node])
    normalised = batch_norm(walk, node)
    assert isinstance(nothing, tuple)
    assert isinstance(normalised, Labels)
    return (normalised, *nothing[1:])


@rule(aten.instance_norm.default, aten.group_norm.default)
def over_space(walk: Walk, node: fx.Node) -> Described:
    """`group_norm(x: B×C×L, 2, ...)`: the statistics of a request run over channels and space, which stay."""
    for name in ("input", "weight", "bias"):
        labels = walk.labels(argument(node, name))
        for axis in labels.removes if labels is not None else ():
            walk.freeze(node, axis, "it is normalised together with another axis")
    return walk.nothing(walk.env[node])


@rule(aten.layer_norm.default)
def layer_norm(walk: Walk, node: fx.Node) -> Described:
    """`layer_norm(x: B×L×D, [D], g: D, b: D)`: d may go if it is zero or constant when masked.

    The statistics still count D.
    """
    x, weight, bias = (walk.labels(argument(node, name)) for name in ("input", "weight", "bias"))
    assert x is not None
    return _over_channels(walk, node, x, len(walk.value(node.args[1])), weight, bias, centred=True)


@rule(aten.rms_norm.default)
def rms_norm(walk: Walk, node: fx.Node) -> Described:
    """`rms_norm(x: B×L×D, [D], g: D)`: as `layer_norm`, and a zero stays zero without a gain."""
    x, weight = (walk.labels(argument(node, name)) for name in ("input", "weight"))
    assert x is not None
    return _over_channels(walk, node, x, len(walk.value(node.args[1])), weight, None, centred=False)


def _over_channels(
    walk: Walk, node: fx.Node, x: Labels, rank: int, weight: Labels | None, bias: Labels | None, centred: bool
) -> Labels:
    if rank > 1:
        for labels in (x, weight, bias):
            for axis in labels.removes[-rank:] if labels is not None else ():
                walk.freeze(node, axis, "it is normalised together with another axis")
        return x.without_zeroes()
    because = "it is normalised over, and masking would not make it the same for every request"
    walk.require_zero(node, x.removes[-1], x.steady[-1], because)
    for vector in (weight, bias):
        if vector is not None:
            walk.equate(node, x.removes[-1], vector.removes[0], "its gain keeps its width")
    return Labels(x.removes, _affine_zeroes(walk, x, len(x.shape) - 1, weight, bias, centred))


def _affine_zeroes(
    walk: Walk, x: Labels, axis: int, weight: Labels | None, bias: Labels | None, centred: bool
) -> tuple[Tensor, ...]:
    """A masked channel comes out as zero if gain and bias are masked too; centring alone moves a zero off zero."""
    zeroes = [torch.zeros_like(ids) for ids in x.removes]
    own = weight.zeroes[0] if weight is not None else torch.zeros_like(x.removes[axis]) if centred else x.zeroes[axis]
    zeroes[axis] = walk.sets.common(own, bias.zeroes[0]) if bias is not None else own
    return tuple(zeroes)
