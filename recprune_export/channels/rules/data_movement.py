"""Operators that only move data: the operator itself is run on the labels."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.channels.tags import Labels, to_elements, unlabelled
from recprune_export.channels.walk import Described, Walk, rule
from recprune_export.program.nodes import argument, arguments
from recprune_export.program.view_operators import MOVEMENTS

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
JOINS = (aten.cat.default, aten.stack.default)
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
        *JOINS,
        *SPLITS,
        *_REORDERINGS,
    }
)


@rule(*(MOVEMENTS - _WITH_RULES_OF_THEIR_OWN))
def move(walk: Walk, node: fx.Node) -> Described:
    """`view(x: 2×6, [2, 2, 3])`: element (b, h, j) has the labels of x's element (b, 3h + j)."""
    labels = walk.labels(arguments(node)[0])
    if labels is None or labels.is_empty():
        return walk.with_whole(walk.nothing(walk.env[node]), labels)
    removes, zeroes, steady = (_run_on_elements(walk, node, side) for side in ("removes", "zeroes", "steady"))
    traced = node.meta["val"]
    if isinstance(traced, Tensor):
        moved = walk.regular(node, traced, removes, zeroes, steady)
        _keep_computed_sizes(walk, node, moved)
        return walk.with_whole(moved, labels)
    outputs = zip(traced, removes, zeroes, steady, strict=True)
    return walk.with_whole(tuple(walk.regular(node, *output) for output in outputs), labels)


def with_slack(walk: Walk, node: fx.Node, labels: Labels, axis: int) -> Labels:
    """Return the labels where fields lie side by side: what is put together or picked may leave out any of them."""
    removes = list(labels.removes)
    if bool(walk.sets.sovereign_in(removes[axis]).any()):
        removes[axis] = walk.sets.union(removes[axis], walk.slack(node, axis))
    return replace(labels, removes=tuple(removes))


@rule(*JOINS)
def join(walk: Walk, node: fx.Node) -> Described:
    """`cat([x: 2×3, y: 2×5], 1)`: the labels of x, then those of y; a field that is all of x goes with x's indices."""
    sources = arguments(node)[0]
    operands = [labels for source in sources if (labels := walk.labels(source)) is not None]
    if not any(labels.whole or not labels.is_empty() for labels in operands):
        return walk.nothing(walk.env[node])
    traced = node.meta["val"]
    axis = argument(node, "dim") % traced.ndim
    static = isinstance(traced.shape[axis], int)
    for source in sources if static else ():
        walk.goes_without(node, source)
    removes, zeroes, steady = (_run_on_elements(walk, node, side) for side in ("removes", "zeroes", "steady"))
    joined = walk.regular(node, traced, removes, zeroes, steady)
    stacked = static and all(len(indices) == 1 for _, indices in operand_indices(node))
    return with_slack(walk, node, joined, axis) if stacked else joined


def operand_indices(node: fx.Node) -> list[tuple[fx.Node, range]]:
    """Return the operands of `cat` or `stack`, each with the indices that are its own; the axis has a static size."""
    operands, axis = arguments(node)[0], argument(node, "dim")
    sizes = [1 if node.target is aten.stack.default else operand.meta["val"].shape[axis] for operand in operands]
    ends = list(itertools.accumulate(sizes))
    return [(operand, range(end - size, end)) for operand, size, end in zip(operands, sizes, ends, strict=True)]


def _keep_computed_sizes(walk: Walk, node: fx.Node, labels: Labels) -> None:
    """A size that the model computes from the batch, B·F, says nothing of what F becomes."""
    sizes = arguments(node)[1] if len(arguments(node)) > 1 else None
    if isinstance(sizes, (list, tuple)) and len(sizes) == len(labels.shape):
        for size, removes in zip(sizes, labels.removes, strict=True):
            if isinstance(size, fx.Node) and not isinstance(walk.env[size], Tensor):
                walk.freeze(node, removes, "its size is computed from the batch")


def _run_on_elements(walk: Walk, node: fx.Node, side: str) -> Any:
    def elements(source: fx.Node) -> Any:
        labels = walk.labels(source)
        if labels is None:
            return walk.env[source]
        of_axes = to_elements(walk.sets, getattr(labels, side))
        return walk.sets.union(of_axes, torch.tensor(labels.whole)) if walk.can_go_without(node, source) else of_axes

    moved = fx.node.map_arg(arguments(node)[0], elements)
    return node.target(moved, *walk.value(arguments(node)[1:]), **walk.value(dict(node.kwargs)))  # type: ignore[operator]


@rule(*_REORDERINGS)
def reorder_axes(walk: Walk, node: fx.Node) -> Described:
    """`transpose(x, 0, 1)`: the axes change places, and with them their labels."""
    labels = walk.labels(arguments(node)[0])
    assert labels is not None
    rank = len(labels.removes)
    # A tensor whose sizes are its axis numbers shows where each axis went, without touching the data.
    probe = torch.empty([axis + 2 for axis in range(rank)], device="meta")
    order = [size - 2 for size in node.target(probe, *arguments(node)[1:], **node.kwargs).shape]  # type: ignore[operator]
    return labels.take_axes(order)


@rule(aten.squeeze.dims)
def squeeze(walk: Walk, node: fx.Node) -> Described:
    """`squeeze(x: B×1×D, [1])`: an axis of one must stay to be dropped."""
    labels = walk.labels(arguments(node)[0])
    assert labels is not None
    dropped = {axis % len(labels.shape) for axis in arguments(node)[1] if labels.shape[axis] == 1}
    for axis in dropped:
        walk.freeze(node, labels.removes[axis], "it is the only one, and its axis is dropped")
    return labels.take_axes([axis for axis in range(len(labels.shape)) if axis not in dropped])


@rule(aten.unsqueeze.default)
def unsqueeze(walk: Walk, node: fx.Node) -> Described:
    """`unsqueeze(x: B×D, 1)`: B×1×D."""
    labels = walk.labels(arguments(node)[0])
    assert labels is not None
    order: list[int | None] = list(range(len(labels.shape)))
    order.insert(arguments(node)[1] % (len(order) + 1), None)
    return labels.take_axes(order)


@rule(aten.view_as_complex.default, aten.view_as_real.default)
def complex_pairs(walk: Walk, node: fx.Node) -> Described:
    """`view_as_complex(x: ...×2)`: the axis of real and imaginary parts stays."""
    labels = walk.labels(argument(node, "self"))
    assert labels is not None
    axes = range(len(labels.removes))
    if node.target is aten.view_as_real.default:
        wide = labels.take_axes([*axes, None])
        return wide.map(lambda field: (*field[:-1], unlabelled(2)))
    walk.freeze(node, labels.removes[-1], "it tells real from imaginary")
    return labels.take_axes(axes[:-1])


@rule(aten.pad.default, aten.constant_pad_nd.default)
def pad(walk: Walk, node: fx.Node) -> Described:
    """`pad(x: B×L×D, [0, 0, 1, 0])`: what is put around an axis is nobody's; what was there keeps its labels."""
    labels = walk.labels(argument(node, "self"))
    assert labels is not None
    amounts = argument(node, "pad")
    mode, value = argument(node, "mode") or "constant", argument(node, "value") or 0
    removes, zeroes, steady = list(labels.removes), list(labels.zeroes), list(labels.steady)
    for position, (before, after) in enumerate(zip(amounts[::2], amounts[1::2], strict=True)):
        axis = len(removes) - 1 - position
        if before == after == 0:
            continue
        if mode != "constant" or min(before, after) < 0:
            walk.freeze(node, removes[axis], "its edge is repeated or cut")
            removes[axis] = zeroes[axis] = steady[axis] = unlabelled(walk.env[node].shape[axis])
            continue
        for field in (removes, zeroes, steady):
            field[axis] = torch.cat([field[axis].new_zeros(before), field[axis], field[axis].new_zeros(after)])
    padded = Labels(tuple(removes), tuple(zeroes), tuple(steady), whole=labels.whole)
    return padded if value == 0 else _only_along(padded, amounts)


def _only_along(labels: Labels, amounts: Sequence[int]) -> Labels:
    """A padding that is not zero leaves no other axis zero: the padded corner of each of its slices counts."""
    padded = {len(labels.shape) - 1 - position // 2 for position, amount in enumerate(amounts) if amount}
    zeroes = [
        zero if axis in padded and len(padded) == 1 else torch.zeros_like(zero)
        for axis, zero in enumerate(labels.zeroes)
    ]
    return Labels(labels.removes, tuple(zeroes), labels.steady)


@rule(aten.expand.default, aten.repeat.default, aten.tile.default)
def stretch(walk: Walk, node: fx.Node) -> Described:
    """`expand(x: B×1, [B, D])`: an axis that is made by repeating one value may take any width."""
    labels = walk.labels(arguments(node)[0])
    assert labels is not None
    value, fixed = walk.env[node], walk.fixed(node)
    offset = value.ndim - len(labels.removes)
    sizes = [1] * offset + list(labels.shape)
    if any(1 < before < after for before, after in zip(sizes, value.shape, strict=True)):
        return move(walk, node)
    wide = labels.take_axes([*[None] * offset, *range(len(labels.removes))])
    removes, zeroes, steady = list(wide.removes), list(wide.zeroes), list(wide.steady)
    for axis, (before, after) in enumerate(zip(sizes, value.shape, strict=True)):
        if before != after:
            walk.freeze(node, removes[axis], "an axis of one value is stretched")
            nothing = torch.zeros(after, dtype=torch.int64)
            removes[axis] = nothing if fixed[axis] else walk.fresh(node, axis, after)
            zeroes[axis] = steady[axis] = nothing
    return Labels(tuple(removes), tuple(zeroes), tuple(steady), whole=labels.whole)


@rule(aten.expand_as.default)
def stretch_like(walk: Walk, node: fx.Node) -> Described:
    """`expand_as(x: B×1, y: B×D)`: the new axis follows y."""
    labels, like = walk.labels(arguments(node)[0]), walk.labels(arguments(node)[1])
    assert labels is not None and like is not None
    removes, zeroes = list(like.removes), [torch.zeros_like(axis) for axis in like.removes]
    steady = list(zeroes)
    offset = len(like.removes) - len(labels.removes)
    for axis, own in enumerate(labels.removes):
        if len(own) == len(removes[offset + axis]):
            walk.equate(node, own, removes[offset + axis], "it is expanded to a tensor that keeps its width")
            zeroes[offset + axis], steady[offset + axis] = labels.zeroes[axis], labels.steady[axis]
    return Labels(tuple(removes), tuple(zeroes), tuple(steady), whole=labels.whole)
