"""Operators that work element by element: operands shrink together, and a zero may or may not stay zero."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from recprune_export.channels.dependency_sets import EMPTY
from recprune_export.channels.tags import Labels
from recprune_export.channels.walk import Described, Walk, rule
from recprune_export.program.nodes import argument

aten = torch.ops.aten

_OF_ONE_TENSOR = (
    aten._conj.default,
    aten._to_copy.default,
    aten.abs.default,
    aten.acos.default,
    aten.add.Scalar,
    aten.alpha_dropout.default,
    aten.asin.default,
    aten.atan.default,
    aten.bitwise_not.default,
    aten.celu.default,
    aten.ceil.default,
    aten.clamp.default,
    aten.clamp_max.default,
    aten.clamp_min.default,
    aten.conj_physical.default,
    aten.cos.default,
    aten.cosh.default,
    aten.deg2rad.default,
    aten.div.Scalar,
    aten.dropout.default,
    aten.elu.default,
    aten.eq.Scalar,
    aten.erf.default,
    aten.exp.default,
    aten.expm1.default,
    aten.feature_dropout.default,
    aten.floor_divide.Scalar,
    aten.floor.default,
    aten.ge.Scalar,
    aten.gelu.default,
    aten.gt.Scalar,
    aten.hardshrink.default,
    aten.hardsigmoid.default,
    aten.hardswish.default,
    aten.hardtanh.default,
    aten.imag.default,
    aten.isfinite.default,
    aten.isinf.default,
    aten.isnan.default,
    aten.le.Scalar,
    aten.leaky_relu.default,
    aten.log.default,
    aten.log10.default,
    aten.log1p.default,
    aten.log2.default,
    aten.log_sigmoid.default,
    aten.logical_not.default,
    aten.lt.Scalar,
    aten.mish.default,
    aten.mul.Scalar,
    aten.ne.Scalar,
    aten.nan_to_num.default,
    aten.neg.default,
    aten.pow.Scalar,
    aten.pow.Tensor_Scalar,
    aten.real.default,
    aten.reciprocal.default,
    aten.relu.default,
    aten.relu6.default,
    aten.remainder.Scalar,
    aten.resolve_conj.default,
    aten.round.default,
    aten.rsqrt.default,
    aten.rrelu.default,
    aten.rsub.Scalar,
    aten.selu.default,
    aten.sigmoid.default,
    aten.sign.default,
    aten.silu.default,
    aten.sin.default,
    aten.sinh.default,
    aten.softplus.default,
    aten.softshrink.default,
    aten.sqrt.default,
    aten.square.default,
    aten.sub.Scalar,
    aten.tan.default,
    aten.tanh.default,
    aten.threshold.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.trunc.default,
    aten.type_as.default,
)
_ZERO_IF_ALL_ARE = (
    aten.add.Tensor,
    aten.sub.Tensor,
    aten.rsub.Tensor,
    aten.maximum.default,
    aten.minimum.default,
    aten.fmod.Tensor,
)
SUMS_OF_TWO = (aten.add.Tensor, aten.sub.Tensor)
_ZERO_IF_ANY_IS = (aten.mul.Tensor, aten.logical_and.default, aten.bitwise_and.Tensor)
_ZERO_IF_FIRST_IS = (
    aten.atan2.default,
    aten.div.Tensor,
    aten.div.Tensor_mode,
    aten.floor_divide.default,
    aten.remainder.Tensor,
)
_NEVER_ZERO = (
    aten.clamp.Tensor,
    aten.clamp_max.Tensor,
    aten.clamp_min.Tensor,
    aten.bitwise_or.Tensor,
    aten.bitwise_xor.Tensor,
    aten.eq.Tensor,
    aten.ge.Tensor,
    aten.gt.Tensor,
    aten.le.Tensor,
    aten.logical_or.default,
    aten.logical_xor.default,
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


class Side(NamedTuple):
    """What one axis of one operand says."""

    removes: Tensor
    zeroes: Tensor
    steady: Tensor


def align(walk: Walk, node: fx.Node, operands: Sequence[Labels]) -> list[list[Side | None]]:
    """Tie broadcast operands index by index.

    Returns for each axis of the result, for each operand, its side, or None where the operand does not have the axis
    or repeats one value along it.
    """
    shape = torch.broadcast_shapes(*(labels.shape for labels in operands))
    result: list[list[Side | None]] = []
    for axis, size in enumerate(shape):
        row: list[Side | None] = []
        for labels in operands:
            own = axis - (len(shape) - len(labels.shape))
            if own < 0:
                row.append(None)
            elif labels.shape[own] != size:
                walk.freeze(node, labels.removes[own], "an axis of one value is repeated")
                row.append(None)
            else:
                row.append(Side(labels.removes[own], labels.zeroes[own], labels.steady[own]))
        present = [side for side in row if side is not None]
        for side in present[1:]:
            walk.equate(node, present[0].removes, side.removes, "it is combined with a tensor that keeps its width")
        result.append(row)
    return result


def _combine(walk: Walk, node: fx.Node, operands: Sequence[Labels], zero_if: str) -> Labels:
    removes, zeroes, steady = [], [], []
    for row in align(walk, node, operands):
        removes.append(next(side for side in row if side is not None).removes)
        nothing = torch.zeros_like(removes[-1])
        known = [nothing if side is None else side.zeroes for side in row]
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
        steady.append(walk.sets.union(zero, _steady(walk, row, operands, nothing)))
    return Labels(tuple(removes), tuple(zeroes), tuple(steady), whole=_whole(walk, operands, zero_if))


def _whole(walk: Walk, operands: Sequence[Labels], zero_if: str) -> int:
    wholes = [labels.whole for labels in operands]
    if zero_if == "any":
        return walk.sets.any_of(wholes)
    if zero_if == "all":
        return walk.sets.all_of(wholes)
    return wholes[0] if zero_if == "first" else EMPTY


def _steady(walk: Walk, row: Sequence[Side | None], operands: Sequence[Labels], nothing: Tensor) -> Tensor:
    """The same for every request where each operand is."""
    if any(side is None and not labels.constant for side, labels in zip(row, operands, strict=True)):
        return nothing
    present = [side.steady for side in row if side is not None]
    result = present[0]
    for ids in present[1:]:
        result = walk.sets.common(result, ids)
    return result


def of_two_tensors(walk: Walk, node: fx.Node, zero_if: str) -> Described:
    """`f(x, y)`: index i of both goes together; the result is zero where "any", "all", the "first" or "never" one is."""
    operands = _tensor_arguments(walk, node.args[:2])
    if len(operands) == 1:
        return of_one_tensor(walk, node)
    return _combine(walk, node, operands, zero_if)


@rule(*_ZERO_IF_ALL_ARE)
def add(walk: Walk, node: fx.Node) -> Described:
    """`x + y`: index i of both goes together; the sum is zero where both are, and y where all of x goes."""
    if node.target in SUMS_OF_TWO:
        for one, other in (node.args[:2], node.args[1::-1]):
            if isinstance(other, fx.Node) and _alike(other.meta["val"], node.meta["val"]):
                walk.goes_without(node, one)
    return of_two_tensors(walk, node, "all")


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape


@rule(*_ZERO_IF_ANY_IS)
def multiply(walk: Walk, node: fx.Node) -> Described:
    """`x * y`: index i of both goes together; the product is zero where one is."""
    return of_two_tensors(walk, node, "any")


@rule(*_ZERO_IF_FIRST_IS)
def divide(walk: Walk, node: fx.Node) -> Described:
    """`x / y`: zero where x is."""
    return of_two_tensors(walk, node, "first")


@rule(*_NEVER_ZERO)
def compare(walk: Walk, node: fx.Node) -> Described:
    """`x == y`: two zeros are equal, so nothing is known to be zero."""
    return of_two_tensors(walk, node, "never")


@rule(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
def where(walk: Walk, node: fx.Node) -> Described:
    """`where(c, x, y)`: all three shrink together; zero where x and y are."""
    condition, first, second = (walk.labels(source) for source in node.args)
    operands = [labels for labels in (first, second, condition) if labels is not None]
    aligned = _combine(walk, node, operands, "never")
    if first is None or second is None:
        return aligned
    both = _combine(walk, node, [first, second], "all")
    if len(both.removes) < len(aligned.removes):
        return aligned
    zeroes = tuple(
        zero if len(zero) == len(removed) else torch.zeros_like(removed)
        for zero, removed in zip(both.zeroes, aligned.removes, strict=True)
    )
    return Labels(aligned.removes, zeroes, tuple(map(walk.sets.union, zeroes, aligned.steady)), whole=both.whole)


@rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(walk: Walk, node: fx.Node) -> Described:
    """`masked_fill(x, m, v)`: x's labels; zeros stay if v is 0, and will be."""
    operands = _tensor_arguments(walk, node.args[:2])
    zero = _is_constant(walk, node.args[2]) and float(walk.value(node.args[2])) == 0.0
    return _combine(walk, node, operands, "first" if zero else "never")


def _is_constant(walk: Walk, argument: Any) -> bool:
    """Whether neither a request nor training changes the value of an argument."""
    if not isinstance(argument, fx.Node):
        return True
    return argument.op == "get_attr" and not isinstance(walk.env[argument], torch.nn.Parameter)


@rule(aten.lerp.Scalar, aten.lerp.Tensor, aten.addcmul.default, aten.addcdiv.default)
def mixed(walk: Walk, node: fx.Node) -> Described:
    """`lerp(x, y, w)`: all of them go together."""
    return _combine(walk, node, _tensor_arguments(walk, node.args), "never")


@rule(aten.glu.default)
def glu(walk: Walk, node: fx.Node) -> Described:
    """`glu(x: B×2D, 1)`: index d goes with its gate D+d; zero where it is zero itself."""
    labels = walk.labels(node.args[0])
    assert labels is not None
    axis = argument(node, "dim") % len(labels.shape)
    half = labels.shape[axis] // 2
    walk.equate(node, labels.removes[axis][:half], labels.removes[axis][half:], "its gate keeps its width")

    def first_half(field: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (*field[:axis], field[axis][:half], *field[axis + 1 :])

    return labels.map(first_half)


@rule(aten.prelu.default)
def prelu(walk: Walk, node: fx.Node) -> Described:
    """`prelu(x: B×C×..., a: C)`: the slopes go with the channels on axis 1."""
    labels, slopes = _tensor_arguments(walk, node.args)
    if len(slopes.removes[0]) > 1:
        walk.equate(node, labels.removes[1], slopes.removes[0], "its PReLU slopes keep their width")
    else:
        walk.freeze(node, slopes.removes[0], "one slope serves all channels")
    return labels
