"""Operators that only move data: the operator itself is run on the labels."""

import operator
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.channels.label_sets import Reason
from recprune_export.channels.labels import Labels, from_elements, to_elements
from recprune_export.channels.walk import Described, Walk, argument, fixed_axes, rule, source_of
from recprune_export.program.movement import MOVEMENTS
from recprune_export.program.nodes import arguments

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
_WITH_RULES_OF_THEIR_OWN = frozenset(
    {
        aten.expand.default,
        aten.expand_as.default,
        aten.repeat.default,
        aten.index.Tensor,
        aten.index_select.default,
        aten.select.int,
        aten.squeeze.default,
        aten.squeeze.dim,
        aten.squeeze.dims,
        aten.unbind.int,
        *_REORDERINGS,
    }
)


@rule(*(MOVEMENTS - _WITH_RULES_OF_THEIR_OWN))
def move(walk: Walk, node: fx.Node) -> Described:
    """`view(x: 2×6, [2, 2, 3])`: element (b, h, j) has the labels of x's element (b, 3h + j)."""
    sources = arguments(node)[0] if isinstance(arguments(node)[0], (list, tuple)) else [arguments(node)[0]]
    if all((labels := walk.labels(source)) is None or labels.is_empty() for source in sources):
        return walk.nothing(walk.env[node])
    removes = _run_on_elements(walk, node, "removes")
    zeroes = _run_on_elements(walk, node, "zeroes")
    traced = node.meta["val"]
    reason = Reason(f"{node.name} mixes it with parts that keep their width", source_of(node))
    if isinstance(removes, Tensor):
        return from_elements(walk.sets, removes, zeroes, fixed_axes(traced), reason)
    return tuple(
        from_elements(walk.sets, r, z, fixed_axes(t), reason) for r, z, t in zip(removes, zeroes, traced, strict=True)
    )


def _run_on_elements(walk: Walk, node: fx.Node, field: str) -> Any:
    def elements(source: fx.Node) -> Any:
        labels = walk.labels(source)
        return walk.env[source] if labels is None else to_elements(walk.sets, getattr(labels, field))

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
    return Labels(tuple(labels.removes[a] for a in order), tuple(labels.zeroes[a] for a in order))


@rule(aten.index.Tensor, aten.index_select.default)
def pick(walk: Walk, node: fx.Node) -> Described:
    """`x[:, i]`: a constant list i of indices of one axis follows what is left of it; otherwise picked axes are frozen."""
    labels = walk.labels(arguments(node)[0])
    assert labels is not None
    picked = picked_axes(node)
    for axis, index in picked.items():
        follows = len(picked) == 1 and index.op == "get_attr" and walk.env[index].ndim == 1
        if not follows or walk.env[index].dtype == torch.bool:
            walk.freeze(
                node, labels.removes[axis], "it is picked by several indices, or by one that comes with the request"
            )
    return move(walk, node)


def picked_axes(node: fx.Node) -> dict[int, fx.Node]:
    """Return the axes that `index` or `index_select` picks from, each with the node of its index."""
    if node.target is aten.index_select.default:
        axis, index = arguments(node)[1:3]
        return {axis % node.meta["val"].ndim: index}
    return {axis: index for axis, index in enumerate(arguments(node)[1]) if index is not None}


@rule(aten.select.int, aten.unbind.int)
def take(walk: Walk, node: fx.Node) -> Described:
    """`select(x: B×F×D, 1, f)`: F is taken apart, so each index that is taken must stay; D goes through."""
    labels = walk.labels(arguments(node)[0])
    assert labels is not None
    taken = labels.removes[walk.value(argument(node, "dim"))]
    if node.target is aten.select.int:
        taken = taken[walk.value(argument(node, "index"))].reshape(1)
    walk.freeze(node, taken, "it is taken out by its number")
    return move(walk, node)


@rule(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def squeeze(walk: Walk, node: fx.Node) -> Described:
    """`squeeze(x: B×1×D, 1)`: an axis of one must stay to be dropped."""
    labels = walk.labels(arguments(node)[0])
    assert labels is not None
    for axis in labels.removes:
        if len(axis) == 1:
            walk.freeze(node, axis, "it is the only one, and its axis is dropped")
    return move(walk, node)


@rule(operator.getitem)
def take_output(walk: Walk, node: fx.Node) -> Described:
    """One output of an operator that has several."""
    source, position = arguments(node)
    described = walk.described.get(source)
    return described[position] if isinstance(described, tuple) else walk.nothing(walk.env[node])


@rule(aten.expand.default, aten.repeat.default)
def stretch(walk: Walk, node: fx.Node) -> Described:
    """`expand(x: B×1, [B, D])`: an axis that is made by repeating one value may take any width."""
    labels = walk.labels(arguments(node)[0])
    assert labels is not None
    value, fixed = walk.env[node], walk.fixed(node)
    offset = value.ndim - len(labels.removes)
    sizes = [1] * offset + list(labels.shape)
    if any(1 < before < after for before, after in zip(sizes, value.shape, strict=True)):
        return move(walk, node)
    blank = [torch.zeros(1, dtype=torch.int64)] * offset
    removes, zeroes = [*blank, *labels.removes], [*blank, *labels.zeroes]
    for axis, (before, after) in enumerate(zip(sizes, value.shape, strict=True)):
        if before != after:
            walk.freeze(node, removes[axis], "an axis of one value is stretched")
            nothing = torch.zeros(after, dtype=torch.int64)
            removes[axis] = nothing if fixed[axis] else walk.fresh(node, axis, after)
            zeroes[axis] = nothing
    return Labels(tuple(removes), tuple(zeroes))


@rule(aten.expand_as.default)
def stretch_like(walk: Walk, node: fx.Node) -> Described:
    """`expand_as(x: B×1, y: B×D)`: the new axis follows y."""
    labels, like = walk.labels(arguments(node)[0]), walk.labels(arguments(node)[1])
    assert labels is not None and like is not None
    removes, zeroes = list(like.removes), [torch.zeros_like(axis) for axis in like.removes]
    offset = len(like.removes) - len(labels.removes)
    for axis, own in enumerate(labels.removes):
        if len(own) == len(removes[offset + axis]):
            walk.equate(node, own, removes[offset + axis], "it is expanded to a tensor that keeps its width")
            zeroes[offset + axis] = labels.zeroes[axis]
    return Labels(tuple(removes), tuple(zeroes))
