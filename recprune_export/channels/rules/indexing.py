"""Operators that read elements by position, and those that write them."""

import operator
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.channels.dependency_sets import untagged_like
from recprune_export.channels.rules.data_movement import SPLITS, add_optional_tags, move_data
from recprune_export.channels.tags import TensorTags, make_untagged_axis
from recprune_export.channels.walk import NodeTags, Walk, rule
from recprune_export.program.nodes import argument, arguments

aten = torch.ops.aten


@rule(aten.index.Tensor, aten.index_select.default)
def advanced_index(walk: Walk, node: fx.Node) -> NodeTags:
    """`x[:, i, j]`: constant lists of indices keep the tags of the axes; otherwise indexed axes are frozen."""
    tags = walk.tags(arguments(node)[0])
    assert tags is not None
    picked = picked_axes(node)
    if are_constant_lists(picked):
        return move_data(walk, node)
    if len(picked) > 1 or any(walk.env[index].dtype == torch.bool for index in picked.values()):
        for axis in picked:
            walk.freeze(node, tags.removed_by[axis], "it is selected by several indices together")
        return move_data(walk, node)
    ((axis, index),) = picked.items()
    if walk.env[index].ndim == 1 and index.op == "get_attr":
        listed = tags.map(lambda side: [*side[:axis], side[axis][walk.env[index]], *side[axis + 1 :]])
        return add_optional_tags(walk, node, listed, axis)
    walk.mark_lookup(node, tags.removed_by[axis], index)
    like = walk.tags(index)
    new = [make_untagged_axis(n) for n in walk.env[index].shape] if like is None else list(like.removed_by)
    blank = [untagged_like(ids) for ids in new]
    rows = TensorTags(
        (*tags.removed_by[:axis], *new, *tags.removed_by[axis + 1 :]),
        (*tags.zero_when_masked[:axis], *blank, *tags.zero_when_masked[axis + 1 :]),
        # The selected rows vary with the request, so only channels that are zero in all rows are constant.
        removed_entirely_by=tags.removed_entirely_by,
    )
    return walk.add_field_tags(node, rows)


def picked_axes(node: fx.Node) -> dict[int, fx.Node]:
    """Return the axes that `index` or `index_select` indexes, each with the node of its index."""
    if node.target is aten.index_select.default:
        axis, index = arguments(node)[1:3]
        return {axis % node.meta["val"].ndim: index}
    return {axis: index for axis, index in enumerate(arguments(node)[1]) if index is not None}


def are_constant_lists(picked: Mapping[int, fx.Node]) -> bool:
    """Return whether several adjacent axes are indexed by constant lists of equal length, as for pairs of fields."""
    axes = sorted(picked)
    indices = [index.meta["val"] for index in picked.values()]
    constant = all(index.op == "get_attr" for index in picked.values())
    lists = all(i.ndim == 1 and i.dtype != torch.bool and i.shape == indices[0].shape for i in indices)
    return len(axes) > 1 and axes == list(range(axes[0], axes[-1] + 1)) and constant and lists


@rule(aten.gather.default, aten.take_along_dim.default)
def gather(walk: Walk, node: fx.Node) -> NodeTags:
    """`gather(x: B×L×D, 1, i: B×P×D)`: D is removed from both; L is indexed by the request and frozen."""
    tags, index = walk.tags(argument(node, "self")), walk.tags(node.args[2 if _is_gather(node) else 1])
    assert tags is not None and index is not None
    axis = argument(node, "dim") % len(tags.shape)
    walk.freeze(node, tags.removed_by[axis], "its positions depend on the request")
    walk.freeze(node, index.removed_by[axis], "it selects positions")
    result = list(walk.make_untagged(walk.env[node]).removed_by)  # type: ignore[union-attr]
    zero_when_masked = list(result)
    for other, (ids, index_ids) in enumerate(zip(tags.removed_by, index.removed_by, strict=True)):
        if other == axis:
            continue
        if len(ids) != len(index_ids):
            walk.freeze(node, ids, "only a part of it is gathered")
            continue
        walk.equate(node, ids, index_ids, "it is gathered by an index that keeps its width")
        result[other], zero_when_masked[other] = ids, tags.zero_when_masked[other]
    return TensorTags(tuple(result), tuple(zero_when_masked), removed_entirely_by=tags.removed_entirely_by)


def _is_gather(node: fx.Node) -> bool:
    return node.target is aten.gather.default


@rule(aten.select.int, aten.unbind.int)
def select(walk: Walk, node: fx.Node) -> NodeTags:
    """`select(x: B×F×D, 1, f)`: each selected index of F is frozen; D keeps its tags.

    A field that removes index f, and makes it zero, removes the result entirely.
    """
    tags = walk.tags(arguments(node)[0])
    assert tags is not None
    axis = walk.value(argument(node, "dim")) % len(tags.shape)
    rest = tags.take_axes([other for other in range(len(tags.shape)) if other != axis])
    single = node.target is aten.select.int
    indices = [walk.value(argument(node, "index"))] if single else range(tags.shape[axis])
    outputs = []
    for index in indices:
        fields = walk.sets.field_tags_in(
            walk.sets.intersection(tags.removed_by[axis][index], tags.zero_when_masked[axis][index])
        )
        walk.freeze(
            node,
            walk.sets.difference(tags.removed_by[axis][index], fields).reshape(1),
            "it is selected by a constant index",
        )
        outputs.append(replace(rest, removed_entirely_by=walk.sets.unite_sets((rest.removed_entirely_by, int(fields)))))
    return outputs[0] if single else tuple(outputs)


@rule(aten.slice.Tensor, aten.narrow.default, *SPLITS)
def slice_axis(walk: Walk, node: fx.Node) -> NodeTags:
    """`slice(x: B×D, 1, 2, 5)`: dimensions 2 to 4 keep their tags, and so do the other axes."""
    tags = walk.tags(arguments(node)[0])
    assert tags is not None
    axis = (argument(node, "dim") or 0) % len(tags.shape)

    def run(ids: Tensor) -> Any:
        args = list(walk.value(arguments(node)[1:]))  # without the tensor
        position = [parameter.name for parameter in node.target._schema.arguments].index("dim") - 1  # type: ignore[union-attr]
        keywords = {name: value for name, value in walk.value(dict(node.kwargs)).items() if name != "dim"}
        if position < len(args):
            args[position] = 0
        return node.target(ids, *args, **keywords)  # type: ignore[operator]

    def slice_each(field: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        chunks = run(field[axis])
        return [
            (*field[:axis], chunk, *field[axis + 1 :]) for chunk in ([chunks] if isinstance(chunks, Tensor) else chunks)
        ]

    sides = map(slice_each, (tags.removed_by, tags.zero_when_masked, tags.constant_when_masked))
    outputs = tuple(
        TensorTags(removed_by, zero_when_masked, constant_when_masked, removed_entirely_by=tags.removed_entirely_by)
        for removed_by, zero_when_masked, constant_when_masked in zip(*sides, strict=True)
    )
    return outputs if node.target in SPLITS else outputs[0]


@rule(aten.triu.default, aten.tril.default, aten.roll.default, aten.unfold.default, aten.diagonal.default)
def position_dependent(walk: Walk, node: fx.Node) -> NodeTags:
    """`triu(x: B×F×F)`: the result depends on the positions of elements, so the axes concerned are frozen."""
    tags = walk.tags(argument(node, "self"))
    assert tags is not None
    for axis in _axes_of_places(node, len(tags.shape)):
        walk.freeze(node, tags.removed_by[axis], "its treatment depends on its position")
    if node.target in (aten.triu.default, aten.tril.default, aten.roll.default):
        return tags
    return move_data(walk, node)


def _axes_of_places(node: fx.Node, rank: int) -> list[int]:
    if node.target is aten.roll.default:
        return [axis % rank for axis in argument(node, "dims")] or list(range(rank))
    if node.target is aten.unfold.default:
        return [argument(node, "dimension") % rank]
    if node.target is aten.diagonal.default:
        return [argument(node, "dim1") % rank, argument(node, "dim2") % rank]
    return [rank - 2, rank - 1]


@rule(aten.index_put.default)
def index_put(walk: Walk, node: fx.Node) -> NodeTags:
    """`index_put(x: B×L×D, [m: B×L], v)`: the indexed axes are frozen; D keeps its tags, with the D of v."""
    tags, values = walk.tags(argument(node, "self")), walk.tags(argument(node, "values"))
    assert tags is not None
    covered: list[int] = []
    axis = 0
    for index in argument(node, "indices"):
        rank = 1 if index is None or walk.env[index].dtype != torch.bool else walk.env[index].ndim
        covered += [] if index is None else range(axis, axis + rank)
        axis += rank
    trailing = [a for a in range(len(tags.shape)) if a not in covered]
    aligned = values is None or not values.removed_by or (bool(trailing) and trailing[0] > covered[-1])
    for a in range(len(tags.shape)):
        if a in covered or not aligned:
            walk.freeze(node, tags.removed_by[a], "it is overwritten by position")
    if values is None:
        return tags.without_zero_tags()
    for offset in range(1, len(values.removed_by) + 1):
        ids = tags.removed_by[-offset] if aligned and offset <= len(trailing) else None
        value_ids = values.removed_by[-offset]
        if ids is not None and len(ids) == len(value_ids):
            walk.equate(node, ids, value_ids, "it is overwritten by a tensor that keeps its width")
        else:
            walk.freeze(node, value_ids, "it is written by position")
    return TensorTags(tags.removed_by, tuple(untagged_like(ids) for ids in tags.removed_by))


@rule(aten.index_add.default, aten.scatter_add.default, aten.scatter.src, aten.scatter_reduce.two, aten.scatter.reduce)
def scatter(walk: Walk, node: fx.Node) -> NodeTags:
    """`index_add(x: B×D, 0, i: N, y: N×D)`: D of x is removed with D of y; the axis written to is frozen."""
    names = [parameter.name for parameter in node.target._schema.arguments]  # type: ignore[union-attr]
    written = walk.tags(argument(node, "self"))
    source = walk.tags(argument(node, "source" if "source" in names else "src"))
    index = walk.tags(argument(node, "index"))
    assert written is not None and source is not None and index is not None
    axis = argument(node, "dim") % len(written.shape)
    zero_when_masked = []
    for position, ids in enumerate(written.removed_by):
        source_ids = source.removed_by[position]
        index_ids = [] if node.target is aten.index_add.default else [index.removed_by[position]]
        whole = position != axis and all(len(other) == len(ids) for other in (source_ids, *index_ids))
        for other in (source_ids, *index_ids):
            if whole:
                walk.equate(node, ids, other, "it is written over a tensor that keeps its width")
            else:
                walk.freeze(node, other, "it is written by position")
        if not whole:
            walk.freeze(node, ids, "it is written to by position")
        zero = (
            walk.sets.intersection(written.zero_when_masked[position], source.zero_when_masked[position])
            if whole
            else untagged_like(ids)
        )
        zero_when_masked.append(zero)
    return TensorTags(written.removed_by, tuple(zero_when_masked))


@rule(operator.getitem)
def take_output(walk: Walk, node: fx.Node) -> NodeTags:
    """`unbind(x)[i]`: the tags of one output of an operator with several."""
    source, position = arguments(node)
    described = walk.node_tags.get(source)
    return described[position] if isinstance(described, tuple) else walk.make_untagged(walk.env[node])
