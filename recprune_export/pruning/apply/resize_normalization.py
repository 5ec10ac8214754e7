"""Resize rules of operators that normalize over an axis: they still include the removed channels, with their masked values.

Masking requires this: normalizing over only the remaining channels would change the function.
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
    """`layer_norm(x, [n], g, b)`: a norm over n channels, the removed ones with their masked values."""
    source, sizes, weight, bias, epsilon, *_ = (*arguments(node), *(None, None, 1e-5)[len(arguments(node)) - 2 :])  # type: ignore[misc]
    remaining = resizing.find_remaining_indices(source, len(get_shape(source)) - 1)
    if remaining is None or len(sizes) > 1:  # the analysis freezes norms over several axes
        return resizing.copy(node)
    (n,) = sizes
    padding = [0, n - len(remaining)]
    vectors = [None if v is None else resizing.call(aten.constant_pad_nd.default, v, padding) for v in (weight, bias)]
    completed = _completed(resizing, node, source, remaining)
    whole = resizing.call(aten.layer_norm.default, completed, [n], *vectors, epsilon)
    return resizing.call(aten.slice.Tensor, whole, -1, 0, len(remaining))


@resize_rule(aten.rms_norm.default)
def rms_norm(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`rms_norm(x, [n], g, ε)` over m remaining channels: ε·n/m inside and a factor of √(n/m) outside give the same values.

    This holds where the removed channels are zero when masked; otherwise they are appended as in `layer_norm`.
    """
    source, (n,), weight, epsilon = (*arguments(node), *(None, None)[len(arguments(node)) - 2 :])  # type: ignore[misc]
    remaining = resizing.find_remaining_indices(source, len(get_shape(source)) - 1)
    if remaining is None:
        return resizing.copy(node)
    epsilon = torch.finfo(node.meta["val"].dtype).eps if epsilon is None else epsilon
    if bool(_masked_values(resizing, source, remaining).any()):
        gain = None if weight is None else resizing.call(aten.constant_pad_nd.default, weight, [0, n - len(remaining)])
        completed = _completed(resizing, node, source, remaining)
        whole = resizing.call(aten.rms_norm.default, completed, [n], gain, epsilon)
        return resizing.call(aten.slice.Tensor, whole, -1, 0, len(remaining))
    growth = n / len(remaining)
    shrunk = resizing.call(aten.rms_norm.default, source, [len(remaining)], weight, epsilon * growth)
    return resizing.call(aten.mul.Tensor, shrunk, math.sqrt(growth))


@resize_rule(*SOFTMAXES)
def softmax(resizing: GraphResizer, node: fx.Node) -> fx.Node:
    """`softmax(x, axis)`: the sum still includes the removed indices, with their masked values."""
    source, axis, *rest = arguments(node)
    axis = axis % max(len(get_shape(source)), 1)  # a scalar has no axis, but softmax accepts it
    remaining = resizing.find_remaining_indices(source, axis)
    if remaining is None:
        return resizing.copy(node)
    whole = resizing.call(node.target, _completed(resizing, node, source, remaining, axis), axis, *rest)
    return resizing.call(aten.slice.Tensor, whole, axis, 0, len(remaining))


def _masked_values(resizing: GraphResizer, source: fx.Node, remaining: list[int], along: int = -1) -> Tensor:
    """Return the masked values at the removed indices of an axis, which are the same for every request."""
    shape = get_shape(source)
    along %= len(shape)
    removed = sorted(set(range(shape[along])) - set(remaining))
    values = resizing.masked_value(source).index_select(along, torch.tensor(removed))
    for axis, size in enumerate(shape):
        indices = resizing.find_remaining_indices(source, axis)
        if not isinstance(size, int):
            values = values.narrow(axis, 0, 1)
        elif indices is not None and axis != along:
            values = values.index_select(axis, torch.tensor(indices))
    return values


def _completed(
    resizing: GraphResizer, node: fx.Node, source: fx.Node, remaining: list[int], along: int = -1
) -> fx.Node:
    """Return a value with the masked values of an axis appended to its remaining indices."""
    shape = get_shape(source)
    along %= len(shape)
    masked_values = _masked_values(resizing, source, remaining, along)
    if not bool(masked_values.any()):
        padding = [0, 0] * (len(shape) - 1 - along) + [0, shape[along] - len(remaining)]
        return resizing.call(aten.constant_pad_nd.default, source, padding)
    constant = resizing.constant(node, masked_values.to(source.meta["val"].dtype), MASKED_SUM)
    one = resizing.call(aten.slice.Tensor, source, along, 0, 1)
    expanded = resizing.call(aten.add.Tensor, resizing.call(aten.zeros_like.default, one), constant)
    return resizing.call(aten.cat.default, [source, expanded], along)
