"""Operators that take in an axis as a whole, resized: they still see what went, as it is when masked.

That is what masking means. Normalising, or sharing out, over what is left alone would change the function.
"""

import math

import torch
from torch import Tensor, fx

from recprune_export.channels.rules.reduction import SOFTMAXES
from recprune_export.program.nodes import arguments
from recprune_export.pruning.apply.resize import MASKED_SUM, GraphResizer, get_shape, resize_rule

aten = torch.ops.aten


@resize_rule(aten.layer_norm.default)
def layer_norm(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`layer_norm(x, [n], g, b)`: the norm still sees n channels, those that went as what they are when masked."""
    source, sizes, weight, bias, epsilon, *_ = (*arguments(node), *(None, None, 1e-5)[len(arguments(node)) - 2 :])  # type: ignore[misc]
    kept = resizing.find_remaining_indices(source, len(get_shape(source)) - 1)
    if kept is None or len(sizes) > 1:  # of several axes none is ever cut
        return resizing.copy(node)
    (n,) = sizes
    missing = [0, n - len(kept)]
    vectors = [None if v is None else resizing.call(aten.constant_pad_nd.default, v, missing) for v in (weight, bias)]
    completed = _completed(resizing, node, source, kept)
    whole = resizing.call(aten.layer_norm.default, completed, [n], *vectors, epsilon)
    return resizing.call(aten.slice.Tensor, whole, -1, 0, len(kept))


@resize_rule(aten.rms_norm.default)
def rms_norm(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`rms_norm(x, [n], g, ε)` over m kept channels: ε·n/m inside and a gain of √(n/m) outside give the same values.

    That holds where the others are zero when masked; where they are not, it is as in `layer_norm`.
    """
    source, (n,), weight, epsilon = (*arguments(node), *(None, None)[len(arguments(node)) - 2 :])  # type: ignore[misc]
    kept = resizing.find_remaining_indices(source, len(get_shape(source)) - 1)
    if kept is None:
        return resizing.copy(node)
    epsilon = torch.finfo(node.meta["val"].dtype).eps if epsilon is None else epsilon
    if bool(_masked_beside(resizing, source, kept).any()):
        gain = None if weight is None else resizing.call(aten.constant_pad_nd.default, weight, [0, n - len(kept)])
        completed = _completed(resizing, node, source, kept)
        whole = resizing.call(aten.rms_norm.default, completed, [n], gain, epsilon)
        return resizing.call(aten.slice.Tensor, whole, -1, 0, len(kept))
    growth = n / len(kept)
    shrunk = resizing.call(aten.rms_norm.default, source, [len(kept)], weight, epsilon * growth)
    return resizing.call(aten.mul.Tensor, shrunk, math.sqrt(growth))


@resize_rule(*SOFTMAXES)
def softmax(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`softmax(x, axis)`: the sum still counts the shares of those that went, as they are when masked."""
    source, axis, *rest = arguments(node)
    axis = axis % max(len(get_shape(source)), 1)  # a number has no axis, and yet a softmax
    kept = resizing.find_remaining_indices(source, axis)
    if kept is None:
        return resizing.copy(node)
    whole = resizing.call(node.target, _completed(resizing, node, source, kept, axis), axis, *rest)
    return resizing.call(aten.slice.Tensor, whole, axis, 0, len(kept))


def _masked_beside(resizing: GraphResizer, source: fx.Node, kept: list[int], along: int = -1) -> Tensor:
    """What the indices of an axis that go are when masked, the same for every request."""
    shape = get_shape(source)
    along %= len(shape)
    gone = sorted(set(range(shape[along])) - set(kept))
    values = resizing.masked_value(source).index_select(along, torch.tensor(gone))
    for axis, size in enumerate(shape):
        left = resizing.find_remaining_indices(source, axis)
        if not isinstance(size, int):
            values = values.narrow(axis, 0, 1)
        elif left is not None and axis != along:
            values = values.index_select(axis, torch.tensor(left))
    return values


def _completed(resizing: GraphResizer, node: fx.Node, source: fx.Node, kept: list[int], along: int = -1) -> fx.Node:
    """A value with those indices of an axis that went put behind those that are kept."""
    shape = get_shape(source)
    along %= len(shape)
    beside = _masked_beside(resizing, source, kept, along)
    if not bool(beside.any()):
        missing = [0, 0] * (len(shape) - 1 - along) + [0, shape[along] - len(kept)]
        return resizing.call(aten.constant_pad_nd.default, source, missing)
    constant = resizing.constant(node, beside.to(source.meta["val"].dtype), MASKED_SUM)
    one = resizing.call(aten.slice.Tensor, source, along, 0, 1)
    wide = resizing.call(aten.add.Tensor, resizing.call(aten.zeros_like.default, one), constant)
    return resizing.call(aten.cat.default, [source, wide], along)
