"""Operators that work element by element: operands shrink together, and a zero may or may not stay zero."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.channels.labels import Labels
from recprune_export.channels.walk import Described, Walk, rule

aten = torch.ops.aten

_OF_ONE_TENSOR = (
    aten._to_copy.default,
    aten.abs.default,
    aten.bitwise_not.default,
    aten.clamp.default,
    aten.clamp_max.default,
    aten.clamp_min.default,
    aten.cos.default,
    aten.dropout.default,
    aten.elu.default,
    aten.eq.Scalar,
    aten.erf.default,
    aten.exp.default,
    aten.floor.default,
    aten.ge.Scalar,
    aten.gelu.default,
    aten.gt.Scalar,
    aten.hardtanh.default,
    aten.isnan.default,
    aten.le.Scalar,
    aten.leaky_relu.default,
    aten.log.default,
    aten.log1p.default,
    aten.log_sigmoid.default,
    aten.logical_not.default,
    aten.lt.Scalar,
    aten.mish.default,
    aten.ne.Scalar,
    aten.neg.default,
    aten.pow.Scalar,
    aten.pow.Tensor_Scalar,
    aten.reciprocal.default,
    aten.relu.default,
    aten.relu6.default,
    aten.round.default,
    aten.rsqrt.default,
    aten.rsub.Scalar,
    aten.selu.default,
    aten.sigmoid.default,
    aten.sign.default,
    aten.silu.default,
    aten.sin.default,
    aten.softplus.default,
    aten.sqrt.default,
    aten.square.default,
    aten.tanh.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.type_as.default,
)
_ZERO_IF_ALL_ARE = (aten.add.Tensor, aten.sub.Tensor, aten.rsub.Tensor, aten.maximum.default, aten.minimum.default)
_ZERO_IF_ANY_IS = (aten.mul.Tensor, aten.logical_and.default, aten.bitwise_and.Tensor)
_ZERO_IF_FIRST_IS = (aten.div.Tensor,)
_NEVER_ZERO = (
    aten.bitwise_or.Tensor,
    aten.eq.Tensor,
    aten.ge.Tensor,
    aten.gt.Tensor,
    aten.le.Tensor,
    aten.logical_or.default,
    aten.lt.Tensor,
    aten.ne.Tensor,
    aten.pow.Tensor_Tensor,
)


@rule(*_OF_ONE_TENSOR)
def of_one_tensor(walk: Walk, node: fx.Node) -> Described:
    """`relu(x)`: x's labels; zeros stay if relu(0) is 0, which is found by trying."""
    position = next(p for p, argument in enumerate(node.args) if walk.labels(argument) is not None)
    labels = walk.labels(node.args[position])
    assert labels is not None
    return labels if _keeps_zero(walk, node, position) else labels.without_zeroes()


def _keeps_zero(walk: Walk, node: fx.Node, position: int) -> bool:
    args = list(walk.value(node.args))
    args[position] = torch.zeros(1, dtype=args[position].dtype)
    return not bool(node.target(*args, **walk.value(dict(node.kwargs))).any())  # type: ignore[operator]


def _tensor_arguments(walk: Walk, arguments: Sequence[Any]) -> list[Labels]:
    return [labels for argument in arguments if (labels := walk.labels(argument)) is not None]


def align(walk: Walk, node: fx.Node, operands: Sequence[Labels]) -> list[list[tuple[Tensor, Tensor] | None]]:
    """Tie broadcast operands index by index.

    Returns for each axis of the result, for each operand, its (removes, zeroes), or None where the operand does not
    have the axis or repeats one value along it.
    """
    shape = torch.broadcast_shapes(*(labels.shape for labels in operands))
    result: list[list[tuple[Tensor, Tensor] | None]] = []
    for axis, size in enumerate(shape):
        row: list[tuple[Tensor, Tensor] | None] = []
        for labels in operands:
            own = axis - (len(shape) - len(labels.shape))
            if own < 0:
                row.append(None)
            elif labels.shape[own] != size:
                walk.freeze(node, labels.removes[own], "an axis of one value is repeated")
                row.append(None)
            else:
                row.append((labels.removes[own], labels.zeroes[own]))
        present = [pair for pair in row if pair is not None]
        for pair in present[1:]:
            walk.equate(node, present[0][0], pair[0], "it is combined with a tensor that keeps its width")
        result.append(row)
    return result


def _combine(walk: Walk, node: fx.Node, operands: Sequence[Labels], zero_if: str) -> Labels:
    removes, zeroes = [], []
    for row in align(walk, node, operands):
        present = [pair for pair in row if pair is not None]
        removes.append(present[0][0])
        nothing = torch.zeros_like(present[0][0])
        known = [nothing if pair is None else pair[1] for pair in row]
        if zero_if == "any":
            zero = nothing
            for ids in known:
                zero = walk.sets.union(zero, ids)
        elif zero_if == "all":
            zero = known[0]
            for ids in known[1:]:
                zero = walk.sets.common(zero, ids)
        else:
            zero = known[0] if zero_if == "first" else nothing
        zeroes.append(zero)
    return Labels(tuple(removes), tuple(zeroes))


def _binary(walk: Walk, node: fx.Node, zero_if: str) -> Described:
    operands = _tensor_arguments(walk, node.args[:2])
    if len(operands) == 1:
        return of_one_tensor(walk, node)
    return _combine(walk, node, operands, zero_if)


@rule(*_ZERO_IF_ALL_ARE)
def add(walk: Walk, node: fx.Node) -> Described:
    """`x + y`: index i of both goes together; the sum is zero where both are."""
    return _binary(walk, node, "all")


@rule(*_ZERO_IF_ANY_IS)
def multiply(walk: Walk, node: fx.Node) -> Described:
    """`x * y`: index i of both goes together; the product is zero where one is."""
    return _binary(walk, node, "any")


@rule(*_ZERO_IF_FIRST_IS)
def divide(walk: Walk, node: fx.Node) -> Described:
    """`x / y`: zero where x is."""
    return _binary(walk, node, "first")


@rule(*_NEVER_ZERO)
def compare(walk: Walk, node: fx.Node) -> Described:
    """`x == y`: two zeros are equal, so nothing is known to be zero."""
    return _binary(walk, node, "never")


@rule(aten.where.self)
def where(walk: Walk, node: fx.Node) -> Described:
    """`where(c, x, y)`: all three shrink together; zero where x and y are."""
    condition, first, second = (walk.labels(argument) for argument in node.args)
    operands = [labels for labels in (first, second, condition) if labels is not None]
    aligned = _combine(walk, node, operands, "never")
    if first is None or second is None:
        return aligned
    return Labels(aligned.removes, _combine(walk, node, [first, second], "all").zeroes)


@rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(walk: Walk, node: fx.Node) -> Described:
    """`masked_fill(x, m, v)`: x's labels; zeros stay if v is 0."""
    operands = _tensor_arguments(walk, node.args[:2])
    return _combine(walk, node, operands, "first" if float(walk.value(node.args[2])) == 0.0 else "never")


@rule(aten.prelu.default)
def prelu(walk: Walk, node: fx.Node) -> Described:
    """`prelu(x: B×C×..., a: C)`: the slopes go with the channels on axis 1."""
    labels, slopes = _tensor_arguments(walk, node.args)
    if len(slopes.removes[0]) > 1:
        walk.equate(node, labels.removes[1], slopes.removes[0], "its PReLU slopes keep their width")
    else:
        walk.freeze(node, slopes.removes[0], "one slope serves all channels")
    return labels
