"""Operators that only move data: the operator itself is run on the tags."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.channels.dependency_sets import has_tags, untagged_like
from recprune_export.channels.tags import TensorTags, axes_to_elements, make_untagged_axis
from recprune_export.channels.walk import NodeTags, Walk, rule
from recprune_export.program.nodes import argument, arguments
from recprune_export.program.view_operators import DATA_MOVEMENT_OPERATORS

aten = torch.ops.aten

_REORDERINGS = (
    aten.adjoint.default,
    aten.mT.default,
    aten.movedim.int,
    aten.numpy_T.default,
    aten.permute.default,
    aten.swapaxes.default,
    aten.t.default,
    aten.transpose.int,
)
CONCATENATIONS = (aten.cat.default, aten.stack.default)
SPLITS = (
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.tensor_split.sections,
    aten.tensor_split.indices,
)
_WITH_RULES_OF_THEIR_OWN = frozenset(
    {
        aten.expand.default,
        aten.expand_as.default,
        aten.repeat.default,
        aten.tile.default,
        aten.index.Tensor,
        aten.index_select.default,
        aten.select.int,
        aten.narrow.default,
        aten.slice.Tensor,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.unbind.int,
        aten.unsqueeze.default,
        *CONCATENATIONS,
        *SPLITS,
        *_REORDERINGS,
    }
)


_KEEP_STRIDES = frozenset({aten.expand.default, aten.expand_as.default, aten.index.Tensor, *CONCATENATIONS, *SPLITS})


@rule(*(DATA_MOVEMENT_OPERATORS - _WITH_RULES_OF_THEIR_OWN))
def move_data(walk: Walk, node: fx.Node) -> NodeTags:
    """`view(x: 2×6, [2, 2, 3])`: element (b, h, j) has the tags of x's element (b, 3h + j)."""
    tags = walk.tags(arguments(node)[0])
    if tags is None or tags.is_empty():
        return walk.with_removed_entirely_by(walk.make_untagged(walk.env[node]), tags)
    removed_by, zero_when_masked, constant_when_masked = (
        _run_on_elements(walk, node, side) for side in ("removed_by", "zero_when_masked", "constant_when_masked")
    )
    traced = node.meta["val"]
    if isinstance(traced, Tensor):
        moved = walk.tags_from_elements(node, traced, removed_by, zero_when_masked, constant_when_masked)
        _keep_computed_sizes(walk, node, moved)
        return walk.with_removed_entirely_by(moved, tags)
    outputs = zip(traced, removed_by, zero_when_masked, constant_when_masked, strict=True)
    return walk.with_removed_entirely_by(tuple(walk.tags_from_elements(node, *output) for output in outputs), tags)


def add_optional_tags(walk: Walk, node: fx.Node, tags: TensorTags, axis: int) -> TensorTags:
    """Return the tags with optional tags on an axis of fields, any of which the operator may leave out."""
    removed_by = list(tags.removed_by)
    if has_tags(walk.sets.field_tags_in(removed_by[axis])):
        removed_by[axis] = walk.sets.union(removed_by[axis], walk.make_optional_tags(node, axis))
    return replace(tags, removed_by=tuple(removed_by))


@rule(*CONCATENATIONS)
def concatenate(walk: Walk, node: fx.Node) -> NodeTags:
    """`cat([x: 2×3, y: 2×5], 1)`: the tags of x, then those of y; fields that remove x entirely remove its indices."""
    sources = arguments(node)[0]
    operands = [tags for source in sources if (tags := walk.tags(source)) is not None]
    if not any(tags.removed_entirely_by or not tags.is_empty() for tags in operands):
        return walk.make_untagged(walk.env[node])
    traced = node.meta["val"]
    axis = argument(node, "dim") % traced.ndim
    static = isinstance(traced.shape[axis], int)
    for source in sources if static else ():
        walk.mark_operand_optional(node, source)
    joined = _join_axes(walk, node, axis) if static else None
    if joined is None:
        sides = (
            _run_on_elements(walk, node, side) for side in ("removed_by", "zero_when_masked", "constant_when_masked")
        )
        joined = walk.tags_from_elements(node, traced, *sides)
    stacked = static and all(len(indices) == 1 for _, indices in operand_indices(node))
    return add_optional_tags(walk, node, joined, axis) if stacked else joined


def _join_axes(walk: Walk, node: fx.Node, axis: int) -> TensorTags | None:
    """Return the tags of `cat` where only the joined axis has tags, or None if the elements have to be looked at.

    The time is linear in the joined indices; with elements, it would be multiplied by the sizes of the other axes.
    """
    operands = [walk.tags(source) for source in arguments(node)[0]]
    if node.target is not aten.cat.default or not all(
        tags is not None and not tags.removed_entirely_by for tags in operands
    ):
        return None
    sides = [
        [getattr(tags, side) for tags in operands]
        for side in ("removed_by", "zero_when_masked", "constant_when_masked")
    ]
    rank = len(sides[0][0])
    if any(len(axes) != rank or not all(map(len, axes)) for axes in sides[0]):
        return None  # an operand without elements
    if any(has_tags(axes[other]) for side in sides for axes in side for other in range(rank) if other != axis):
        return None
    joined = [walk.sets.canonical(torch.cat([axes[axis] for axes in side])) for side in sides]
    if not has_tags(joined[0]) or any(has_tags(walk.sets.intersection_along(ids, 0)) for ids in joined):
        return None  # one channel removes every index, and with it those of the other axes
    untagged = [make_untagged_axis(size) for size in walk.env[node].shape]
    removed_by, zero_when_masked, constant_when_masked = (
        tuple(ids if position == axis else untagged[position] for position in range(rank)) for ids in joined
    )
    return TensorTags(removed_by, zero_when_masked, constant_when_masked)


def operand_indices(node: fx.Node) -> list[tuple[fx.Node, range]]:
    """Return the operands of `cat` or `stack`, each with its indices in the result; the axis has a static size."""
    operands, axis = arguments(node)[0], argument(node, "dim")
    sizes = [1 if node.target is aten.stack.default else operand.meta["val"].shape[axis] for operand in operands]
    ends = list(itertools.accumulate(sizes))
    return [(operand, range(end - size, end)) for operand, size, end in zip(operands, sizes, ends, strict=True)]


def _keep_computed_sizes(walk: Walk, node: fx.Node, tags: TensorTags) -> None:
    """Freeze axes whose size the model computes from the batch, such as B·F: it would not change with F."""
    sizes = arguments(node)[1] if len(arguments(node)) > 1 else None
    if isinstance(sizes, (list, tuple)) and len(sizes) == len(tags.shape):
        for size, removed_by in zip(sizes, tags.removed_by, strict=True):
            if isinstance(size, fx.Node) and not isinstance(walk.env[size], Tensor):
                walk.freeze(node, removed_by, "its size is computed from the batch")


def _run_on_elements(walk: Walk, node: fx.Node, side: str) -> Any:
    def elements(source: fx.Node) -> Any:
        tags = walk.tags(source)
        if tags is None:
            return walk.env[source]
        set_ids = axes_to_elements(walk.sets, getattr(tags, side))
        set_ids = set_ids if node.target in _KEEP_STRIDES else set_ids.contiguous()  # a view may need it
        return (
            walk.sets.union(set_ids, torch.tensor(tags.removed_entirely_by))
            if walk.is_operand_optional(node, source)
            else set_ids
        )

    moved = fx.node.map_arg(arguments(node)[0], elements)
    return node.target(moved, *walk.value(arguments(node)[1:]), **walk.value(dict(node.kwargs)))  # type: ignore[operator]


@rule(*_REORDERINGS)
def reorder_axes(walk: Walk, node: fx.Node) -> NodeTags:
    """`transpose(x, 0, 1)`: the axes change order, and with them their tags."""
    tags = walk.tags(arguments(node)[0])
    assert tags is not None
    rank = len(tags.removed_by)
    # A meta tensor whose sizes are its axis numbers (plus 2) shows the new position of each axis.
    probe = torch.empty([axis + 2 for axis in range(rank)], device="meta")
    order = [size - 2 for size in node.target(probe, *arguments(node)[1:], **node.kwargs).shape]  # type: ignore[operator]
    return tags.take_axes(order)


@rule(aten.squeeze.dims)
def squeeze(walk: Walk, node: fx.Node) -> NodeTags:
    """`squeeze(x: B×1×D, [1])`: the index of a dropped axis is frozen, because the axis must have size 1."""
    tags = walk.tags(arguments(node)[0])
    assert tags is not None
    dropped = {axis % len(tags.shape) for axis in arguments(node)[1] if tags.shape[axis] == 1}
    for axis in dropped:
        walk.freeze(node, tags.removed_by[axis], "it is the only one, and its axis is dropped")
    return tags.take_axes([axis for axis in range(len(tags.shape)) if axis not in dropped])


@rule(aten.unsqueeze.default)
def unsqueeze(walk: Walk, node: fx.Node) -> NodeTags:
    """`unsqueeze(x: B×D, 1)`: B×1×D."""
    tags = walk.tags(arguments(node)[0])
    assert tags is not None
    order: list[int | None] = list(range(len(tags.shape)))
    order.insert(arguments(node)[1] % (len(order) + 1), None)
    return tags.take_axes(order)


@rule(aten.view_as_complex.default, aten.view_as_real.default)
def complex_pairs(walk: Walk, node: fx.Node) -> NodeTags:
    """`view_as_complex(x: ...×2)`: the axis of real and imaginary parts is frozen."""
    tags = walk.tags(argument(node, "self"))
    assert tags is not None
    axes = range(len(tags.removed_by))
    if node.target is aten.view_as_real.default:
        wide = tags.take_axes([*axes, None])
        return wide.map(lambda field: (*field[:-1], make_untagged_axis(2)))
    walk.freeze(node, tags.removed_by[-1], "it separates real and imaginary parts")
    return tags.take_axes(axes[:-1])


@rule(aten.pad.default, aten.constant_pad_nd.default)
def pad(walk: Walk, node: fx.Node) -> NodeTags:
    """`pad(x: B×L×D, [0, 0, 1, 0])`: added indices have no tags; the others keep theirs."""
    tags = walk.tags(argument(node, "self"))
    assert tags is not None
    amounts = argument(node, "pad")
    mode, value = argument(node, "mode") or "constant", argument(node, "value") or 0
    removed_by, zero_when_masked, constant_when_masked = (
        list(tags.removed_by),
        list(tags.zero_when_masked),
        list(tags.constant_when_masked),
    )
    for position, (before, after) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        axis = len(removed_by) - 1 - position
        if before == after == 0:
            continue
        if mode != "constant" or min(before, after) < 0:
            walk.freeze(node, removed_by[axis], "its edge is repeated or cut")
            removed_by[axis] = zero_when_masked[axis] = constant_when_masked[axis] = make_untagged_axis(
                walk.env[node].shape[axis]
            )
            continue
        for field in (removed_by, zero_when_masked, constant_when_masked):
            field[axis] = torch.cat([field[axis].new_zeros(before), field[axis], field[axis].new_zeros(after)])
    padded = TensorTags(
        tuple(removed_by),
        tuple(zero_when_masked),
        tuple(constant_when_masked),
        removed_entirely_by=tags.removed_entirely_by,
    )
    return padded if value == 0 else _only_along(padded, amounts)


def _only_along(tags: TensorTags, amounts: Sequence[int]) -> TensorTags:
    """Drop the zeros of other axes where the padding is not zero: each of their slices holds padded elements."""
    padded = {len(tags.shape) - 1 - position // 2 for position, amount in enumerate(amounts) if amount}
    zero_when_masked = [
        zero if axis in padded and len(padded) == 1 else untagged_like(zero)
        for axis, zero in enumerate(tags.zero_when_masked)
    ]
    return TensorTags(tags.removed_by, tuple(zero_when_masked), tags.constant_when_masked)


@rule(aten.expand.default, aten.repeat.default, aten.tile.default)
def expand(walk: Walk, node: fx.Node) -> NodeTags:
    """`expand(x: B×1, [B, D])`: an axis made by repeating one value takes any width."""
    tags = walk.tags(arguments(node)[0])
    assert tags is not None
    value, fixed = walk.env[node], walk.varying_axes(node)
    offset = value.ndim - len(tags.removed_by)
    sizes = [1] * offset + list(tags.shape)
    if any(1 < before < after for before, after in zip(sizes, value.shape, strict=True)):
        return move_data(walk, node)
    wide = tags.take_axes([*[None] * offset, *range(len(tags.removed_by))])
    removed_by, zero_when_masked, constant_when_masked = (
        list(wide.removed_by),
        list(wide.zero_when_masked),
        list(wide.constant_when_masked),
    )
    for axis, (before, after) in enumerate(zip(sizes, value.shape, strict=True)):
        if before != after:
            walk.freeze(node, removed_by[axis], "an axis of one value is stretched")
            nothing = torch.zeros(after, dtype=torch.int64)
            removed_by[axis] = nothing if fixed[axis] else walk.make_axis_tags(node, axis, after)
            zero_when_masked[axis] = constant_when_masked[axis] = nothing
    return TensorTags(
        tuple(removed_by),
        tuple(zero_when_masked),
        tuple(constant_when_masked),
        removed_entirely_by=tags.removed_entirely_by,
    )


@rule(aten.expand_as.default)
def expand_like(walk: Walk, node: fx.Node) -> NodeTags:
    """`expand_as(x: B×1, y: B×D)`: the new axis has the tags of y."""
    tags, like = walk.tags(arguments(node)[0]), walk.tags(arguments(node)[1])
    assert tags is not None and like is not None
    removed_by, zero_when_masked = list(like.removed_by), [untagged_like(axis) for axis in like.removed_by]
    constant_when_masked = list(zero_when_masked)
    offset = len(like.removed_by) - len(tags.removed_by)
    for axis, ids in enumerate(tags.removed_by):
        if len(ids) == len(removed_by[offset + axis]):
            walk.equate(node, ids, removed_by[offset + axis], "it is expanded to a tensor that keeps its width")
            zero_when_masked[offset + axis], constant_when_masked[offset + axis] = (
                tags.zero_when_masked[axis],
                tags.constant_when_masked[axis],
            )
    return TensorTags(
        tuple(removed_by),
        tuple(zero_when_masked),
        tuple(constant_when_masked),
        removed_entirely_by=tags.removed_entirely_by,
    )
