"""Operators that only move data: the operator itself is run on the labels."""

import itertools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.channels.labels import Labels, to_elements, unlabelled
from recprune_export.channels.walk import Described, Walk, rule
from recprune_export.program.movement import MOVEMENTS
from recprune_export.program.nodes import argument, arguments

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


def _with_slack(walk: Walk, node: fx.Node, labels: Labels, axis: int) -> Labels:
    """Where fields lie side by side, what is put together or picked may leave out any of them."""
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
    return _with_slack(walk, node, joined, axis) if stacked else joined


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


@rule(aten.index.Tensor, aten.index_select.default)
def pick(walk: Walk, node: fx.Node) -> Described:
    """`x[:, i, j]`: constant lists of indices follow what is left of the axes; otherwise picked axes are frozen."""
    labels = walk.labels(arguments(node)[0])
    assert labels is not None
    picked = picked_axes(node)
    if are_constant_lists(picked):
        return move(walk, node)
    if len(picked) > 1 or any(walk.env[index].dtype == torch.bool for index in picked.values()):
        for axis in picked:
            walk.freeze(node, labels.removes[axis], "it is picked by several indices together")
        return move(walk, node)
    ((axis, index),) = picked.items()
    if walk.env[index].ndim == 1 and index.op == "get_attr":
        listed = labels.map(lambda side: [*side[:axis], side[axis][walk.env[index]], *side[axis + 1 :]])
        return _with_slack(walk, node, listed, axis)
    walk.look_up(node, labels.removes[axis], index)
    like = walk.labels(index)
    new = [unlabelled(n) for n in walk.env[index].shape] if like is None else list(like.removes)
    blank = [torch.zeros_like(ids) for ids in new]
    taken = Labels(
        (*labels.removes[:axis], *new, *labels.removes[axis + 1 :]),
        (*labels.zeroes[:axis], *blank, *labels.zeroes[axis + 1 :]),
        # Which rows are picked varies with the request, so what is the same in every request is what is zero in all rows.
        whole=labels.whole,
    )
    return walk.of_fields(node, taken)


def picked_axes(node: fx.Node) -> dict[int, fx.Node]:
    """Return the axes that `index` or `index_select` picks from, each with the node of its index."""
    if node.target is aten.index_select.default:
        axis, index = arguments(node)[1:3]
        return {axis % node.meta["val"].ndim: index}
    return {axis: index for axis, index in enumerate(arguments(node)[1]) if index is not None}


def are_constant_lists(picked: Mapping[int, fx.Node]) -> bool:
    """Whether several axes, side by side, are picked from by constant lists of one length: pairs of fields."""
    axes = sorted(picked)
    indices = [index.meta["val"] for index in picked.values()]
    constant = all(index.op == "get_attr" for index in picked.values())
    lists = all(i.ndim == 1 and i.dtype != torch.bool and i.shape == indices[0].shape for i in indices)
    return len(axes) > 1 and axes == list(range(axes[0], axes[-1] + 1)) and constant and lists


@rule(aten.gather.default, aten.take_along_dim.default)
def gather(walk: Walk, node: fx.Node) -> Described:
    """`gather(x: B×L×D, 1, i: B×P×D)`: D goes from both; L is picked by the request and stays."""
    labels, index = walk.labels(argument(node, "self")), walk.labels(node.args[2 if _is_gather(node) else 1])
    assert labels is not None and index is not None
    axis = argument(node, "dim") % len(labels.shape)
    walk.freeze(node, labels.removes[axis], "its positions come with the request")
    walk.freeze(node, index.removes[axis], "it says which positions are taken")
    result = list(walk.nothing(walk.env[node]).removes)  # type: ignore[union-attr]
    zeroes = list(result)
    for other, (own, asked) in enumerate(zip(labels.removes, index.removes, strict=True)):
        if other == axis:
            continue
        if len(own) != len(asked):
            walk.freeze(node, own, "only a part of it is gathered")
            continue
        walk.equate(node, own, asked, "it is gathered by an index that keeps its width")
        result[other], zeroes[other] = own, labels.zeroes[other]
    return Labels(tuple(result), tuple(zeroes), whole=labels.whole)


def _is_gather(node: fx.Node) -> bool:
    return node.target is aten.gather.default


@rule(aten.select.int, aten.unbind.int)
def take(walk: Walk, node: fx.Node) -> Described:
    """`select(x: B×F×D, 1, f)`: F is taken apart, so each index that is taken must stay; D goes through.

    A field that is all of index f is all of what is taken.
    """
    labels = walk.labels(arguments(node)[0])
    assert labels is not None
    axis = walk.value(argument(node, "dim")) % len(labels.shape)
    left = labels.take_axes([other for other in range(len(labels.shape)) if other != axis])
    single = node.target is aten.select.int
    indices = [walk.value(argument(node, "index"))] if single else range(labels.shape[axis])
    outputs = []
    for index in indices:
        fields = walk.sets.sovereign_in(walk.sets.common(labels.removes[axis][index], labels.zeroes[axis][index]))
        walk.freeze(
            node, walk.sets.without(labels.removes[axis][index], fields).reshape(1), "it is taken out by its number"
        )
        outputs.append(replace(left, whole=walk.sets.any_of((left.whole, int(fields)))))
    return outputs[0] if single else tuple(outputs)


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


@rule(aten.slice.Tensor, aten.narrow.default, *SPLITS)
def cut(walk: Walk, node: fx.Node) -> Described:
    """`slice(x: B×D, 1, 2, 5)`: dimensions 2 to 4 keep their labels, and so do the other axes."""
    labels = walk.labels(arguments(node)[0])
    assert labels is not None
    axis = (argument(node, "dim") or 0) % len(labels.shape)

    def run(ids: Tensor) -> Any:
        others = list(walk.value(arguments(node)[1:]))
        where = [parameter.name for parameter in node.target._schema.arguments].index("dim") - 1  # type: ignore[union-attr]
        keywords = {name: value for name, value in walk.value(dict(node.kwargs)).items() if name != "dim"}
        if where < len(others):
            others[where] = 0
        return node.target(ids, *others, **keywords)  # type: ignore[operator]

    def cut_each(field: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        parts = run(field[axis])
        return [(*field[:axis], part, *field[axis + 1 :]) for part in ([parts] if isinstance(parts, Tensor) else parts)]

    cut_sides = map(cut_each, (labels.removes, labels.zeroes, labels.steady))
    outputs = tuple(
        Labels(removes, zeroes, steady, whole=labels.whole) for removes, zeroes, steady in zip(*cut_sides, strict=True)
    )
    return outputs if node.target in SPLITS else outputs[0]


@rule(aten.triu.default, aten.tril.default, aten.roll.default, aten.unfold.default, aten.diagonal.default)
def by_position(walk: Walk, node: fx.Node) -> Described:
    """`triu(x: B×F×F)`: what happens to an element depends on its place, so the axes concerned stay."""
    labels = walk.labels(argument(node, "self"))
    assert labels is not None
    for axis in _axes_of_places(node, len(labels.shape)):
        walk.freeze(node, labels.removes[axis], "what happens to it depends on its position")
    if node.target in (aten.triu.default, aten.tril.default, aten.roll.default):
        return labels
    return move(walk, node)


def _axes_of_places(node: fx.Node, rank: int) -> list[int]:
    if node.target is aten.roll.default:
        return [axis % rank for axis in argument(node, "dims")] or list(range(rank))
    if node.target is aten.unfold.default:
        return [argument(node, "dimension") % rank]
    if node.target is aten.diagonal.default:
        return [argument(node, "dim1") % rank, argument(node, "dim2") % rank]
    return [rank - 2, rank - 1]


@rule(aten.index_put.default)
def index_put(walk: Walk, node: fx.Node) -> Described:
    """`index_put(x: B×L×D, [m: B×L], v)`: the axes under the index stay; D goes through, with the D of v."""
    labels, values = walk.labels(argument(node, "self")), walk.labels(argument(node, "values"))
    assert labels is not None
    covered: list[int] = []
    axis = 0
    for index in argument(node, "indices"):
        wide = 1 if index is None or walk.env[index].dtype != torch.bool else walk.env[index].ndim
        covered += [] if index is None else range(axis, axis + wide)
        axis += wide
    behind = [a for a in range(len(labels.shape)) if a not in covered]
    aligned = values is None or not values.removes or (bool(behind) and behind[0] > covered[-1])
    for a in range(len(labels.shape)):
        if a in covered or not aligned:
            walk.freeze(node, labels.removes[a], "it is overwritten by position")
    if values is None:
        return labels.without_zeroes()
    for offset in range(1, len(values.removes) + 1):
        own = labels.removes[-offset] if aligned and offset <= len(behind) else None
        theirs = values.removes[-offset]
        if own is not None and len(own) == len(theirs):
            walk.equate(node, own, theirs, "it is overwritten by what keeps its width")
        else:
            walk.freeze(node, theirs, "it is written by position")
    return Labels(labels.removes, tuple(torch.zeros_like(ids) for ids in labels.removes))


@rule(aten.index_add.default, aten.scatter_add.default, aten.scatter.src, aten.scatter_reduce.two, aten.scatter.reduce)
def scatter(walk: Walk, node: fx.Node) -> Described:
    """`index_add(x: B×D, 0, i: N, y: N×D)`: D of x goes with D of y; the axis that is written to stays."""
    names = [parameter.name for parameter in node.target._schema.arguments]  # type: ignore[union-attr]
    written = walk.labels(argument(node, "self"))
    source = walk.labels(argument(node, "source" if "source" in names else "src"))
    index = walk.labels(argument(node, "index"))
    assert written is not None and source is not None and index is not None
    axis = argument(node, "dim") % len(written.shape)
    zeroes = []
    for position, own in enumerate(written.removes):
        theirs = source.removes[position]
        beside = [] if node.target is aten.index_add.default else [index.removes[position]]
        whole = position != axis and all(len(ids) == len(own) for ids in (theirs, *beside))
        for ids in (theirs, *beside):
            if whole:
                walk.equate(node, own, ids, "it is written over a tensor that keeps its width")
            else:
                walk.freeze(node, ids, "it is written by position")
        if not whole:
            walk.freeze(node, own, "it is written to by position")
        both = walk.sets.common(written.zeroes[position], source.zeroes[position]) if whole else torch.zeros_like(own)
        zeroes.append(both)
    return Labels(written.removes, tuple(zeroes))


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


@rule(operator.getitem)
def take_output(walk: Walk, node: fx.Node) -> Described:
    """One output of an operator that has several."""
    source, position = arguments(node)
    described = walk.described.get(source)
    return described[position] if isinstance(described, tuple) else walk.nothing(walk.env[node])


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
