"""Elementwise operators: operands shrink together, and a zero may or may not remain zero."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from recprune_export.channels.dependency_sets import EMPTY, untagged_like
from recprune_export.channels.tags import TensorTags
from recprune_export.channels.walk import NodeTags, Walk, rule
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
BINARY_SUMS = (aten.add.Tensor, aten.sub.Tensor)
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
ELEMENTWISE = frozenset({*_OF_ONE_TENSOR, *_ZERO_IF_ALL_ARE, *_ZERO_IF_ANY_IS, *_ZERO_IF_FIRST_IS, *_NEVER_ZERO})


@rule(*_OF_ONE_TENSOR)
def unary(walk: Walk, node: fx.Node) -> NodeTags:
    """`relu(x)`: the tags of x; zeros remain if relu(0), which is evaluated, is 0."""
    position = next(p for p, argument in enumerate(node.args) if walk.tags(argument) is not None)
    tags = walk.tags(node.args[position])
    assert tags is not None
    return tags if _keeps_zero(walk, node, position) else tags.without_zero_tags()


def _keeps_zero(walk: Walk, node: fx.Node, position: int) -> bool:
    args = list(walk.value(node.args))
    args[position] = torch.zeros(1, dtype=args[position].dtype)
    return not bool(node.target(*args, **walk.value(dict(node.kwargs))).any())  # type: ignore[operator]


def _tensor_arguments(walk: Walk, arguments: Sequence[Any]) -> list[TensorTags]:
    return [tags for argument in arguments if (tags := walk.tags(argument)) is not None]


class AxisTags(NamedTuple):
    """The tags of one axis of one operand."""

    removed_by: Tensor
    zero_when_masked: Tensor
    constant_when_masked: Tensor


def align(walk: Walk, node: fx.Node, operands: Sequence[TensorTags]) -> list[list[AxisTags | None]]:
    """Tie broadcast operands index by index.

    Returns for each axis of the result, for each operand, the tags of its axis, or None if the operand does not have
    the axis or repeats one value along it.
    """
    shape = torch.broadcast_shapes(*(tags.shape for tags in operands))
    result: list[list[AxisTags | None]] = []
    for axis, size in enumerate(shape):
        row: list[AxisTags | None] = []
        for tags in operands:
            operand_axis = axis - (len(shape) - len(tags.shape))
            if operand_axis < 0:
                row.append(None)
            elif tags.shape[operand_axis] != size:
                walk.freeze(node, tags.removed_by[operand_axis], "an axis of one value is repeated")
                row.append(None)
            else:
                row.append(
                    AxisTags(
                        tags.removed_by[operand_axis],
                        tags.zero_when_masked[operand_axis],
                        tags.constant_when_masked[operand_axis],
                    )
                )
        present = [side for side in row if side is not None]
        for side in present[1:]:
            walk.equate(
                node, present[0].removed_by, side.removed_by, "it is combined with a tensor that keeps its width"
            )
        result.append(row)
    return result


def _combine(walk: Walk, node: fx.Node, operands: Sequence[TensorTags], zero_if: str) -> TensorTags:
    removed_by, zero_when_masked, constant_when_masked = [], [], []
    for row in align(walk, node, operands):
        removed_by.append(next(side for side in row if side is not None).removed_by)
        nothing = untagged_like(removed_by[-1])
        known = [nothing if side is None else side.zero_when_masked for side in row]
        if zero_if == "any":
            zero = nothing
            for ids in known:
                zero = walk.sets.union(zero, ids)
        elif zero_if == "all":
            zero = known[0]
            for ids in known[1:]:
                zero = walk.sets.intersection(zero, ids)
        else:
            zero = known[0] if zero_if == "first" else nothing
        zero_when_masked.append(zero)
        constant_when_masked.append(walk.sets.union(zero, _constant_operands(walk, row, operands, nothing)))
    return TensorTags(
        tuple(removed_by),
        tuple(zero_when_masked),
        tuple(constant_when_masked),
        removed_entirely_by=_whole(walk, operands, zero_if),
    )


def _whole(walk: Walk, operands: Sequence[TensorTags], zero_if: str) -> int:
    wholes = [tags.removed_entirely_by for tags in operands]
    if zero_if == "any":
        return walk.sets.unite_sets(wholes)
    if zero_if == "all":
        return walk.sets.intersect_sets(wholes)
    return wholes[0] if zero_if == "first" else EMPTY


def _constant_operands(
    walk: Walk, row: Sequence[AxisTags | None], operands: Sequence[TensorTags], nothing: Tensor
) -> Tensor:
    """Return the channels whose masking makes every operand the same for every request."""
    if any(side is None and not tags.constant for side, tags in zip(row, operands, strict=True)):
        return nothing
    present = [side.constant_when_masked for side in row if side is not None]
    result = present[0]
    for ids in present[1:]:
        result = walk.sets.intersection(result, ids)
    return result


def binary(walk: Walk, node: fx.Node, zero_if: str) -> NodeTags:
    """`f(x, y)`: index i of both is removed together; the result is zero where "any", "all", the "first" or "never" one is."""
    operands = _tensor_arguments(walk, node.args[:2])
    if len(operands) == 1:
        return unary(walk, node)
    return _combine(walk, node, operands, zero_if)


@rule(*_ZERO_IF_ALL_ARE)
def add(walk: Walk, node: fx.Node) -> NodeTags:
    """`x + y`: index i of both is removed together; the sum is zero where both are, and y where x is removed entirely."""
    if node.target in BINARY_SUMS:
        for one, other in (node.args[:2], node.args[1::-1]):
            if isinstance(other, fx.Node) and _same_type(other.meta["val"], node.meta["val"]):
                walk.mark_operand_optional(node, one)
    return binary(walk, node, "all")


def _same_type(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape


@rule(*_ZERO_IF_ANY_IS)
def multiply(walk: Walk, node: fx.Node) -> NodeTags:
    """`x * y`: index i of both is removed together; the product is zero where one is."""
    return binary(walk, node, "any")


@rule(*_ZERO_IF_FIRST_IS)
def divide(walk: Walk, node: fx.Node) -> NodeTags:
    """`x / y`: zero where x is."""
    return binary(walk, node, "first")


@rule(*_NEVER_ZERO)
def compare(walk: Walk, node: fx.Node) -> NodeTags:
    """`x == y`: two zeros are equal, so no index is known to be zero."""
    return binary(walk, node, "never")


@rule(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar)
def where(walk: Walk, node: fx.Node) -> NodeTags:
    """`where(c, x, y)`: all three shrink together; zero where x and y are."""
    condition, first, second = (walk.tags(source) for source in node.args)
    operands = [tags for tags in (first, second, condition) if tags is not None]
    aligned = _combine(walk, node, operands, "never")
    if first is None or second is None:
        return aligned
    both = _combine(walk, node, [first, second], "all")
    if len(both.removed_by) < len(aligned.removed_by):
        return aligned
    zero_when_masked = tuple(
        zero if len(zero) == len(removed) else untagged_like(removed)
        for zero, removed in zip(both.zero_when_masked, aligned.removed_by, strict=True)
    )
    return TensorTags(
        aligned.removed_by,
        zero_when_masked,
        tuple(map(walk.sets.union, zero_when_masked, aligned.constant_when_masked)),
        removed_entirely_by=both.removed_entirely_by,
    )


@rule(aten.masked_fill.Scalar, aten.masked_fill.Tensor)
def masked_fill(walk: Walk, node: fx.Node) -> NodeTags:
    """`masked_fill(x, m, v)`: the tags of x; zeros remain if v is a constant 0."""
    operands = _tensor_arguments(walk, node.args[:2])
    zero = _is_constant(walk, node.args[2]) and float(walk.value(node.args[2])) == 0.0
    return _combine(walk, node, operands, "first" if zero else "never")


def _is_constant(walk: Walk, argument: Any) -> bool:
    """Return whether neither a request nor training changes the value of an argument."""
    if not isinstance(argument, fx.Node):
        return True
    return argument.op == "get_attr" and not isinstance(walk.env[argument], torch.nn.Parameter)


@rule(aten.lerp.Scalar, aten.lerp.Tensor, aten.addcmul.default, aten.addcdiv.default)
def ternary(walk: Walk, node: fx.Node) -> NodeTags:
    """`lerp(x, y, w)`: index i of all is removed together."""
    return _combine(walk, node, _tensor_arguments(walk, node.args), "never")


@rule(aten.glu.default)
def glu(walk: Walk, node: fx.Node) -> NodeTags:
    """`glu(x: B×2D, 1)`: index d is removed with its gate D+d; the result is zero where index d is."""
    tags = walk.tags(node.args[0])
    assert tags is not None
    axis = argument(node, "dim") % len(tags.shape)
    half = tags.shape[axis] // 2
    walk.equate(node, tags.removed_by[axis][:half], tags.removed_by[axis][half:], "its gate keeps its width")

    def first_half(field: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (*field[:axis], field[axis][:half], *field[axis + 1 :])

    return tags.map(first_half)


@rule(aten.prelu.default)
def prelu(walk: Walk, node: fx.Node) -> NodeTags:
    """`prelu(x: B×C×..., a: C)`: the slopes are removed with the channels on axis 1."""
    tags, slopes = _tensor_arguments(walk, node.args)
    if len(slopes.removed_by[0]) > 1:
        walk.equate(node, tags.removed_by[1], slopes.removed_by[0], "its PReLU slopes keep their width")
    else:
        walk.freeze(node, slopes.removed_by[0], "one slope serves all channels")
    return tags
