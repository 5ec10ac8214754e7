"""Convolutions and pooling: channels are contracted, and a spatial axis keeps its tags where the kernel has size 1."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from recprune_export.channels.rules.contraction import add_bias, contract
from recprune_export.channels.tags import TensorTags, make_untagged_axis
from recprune_export.channels.walk import NodeTags, Walk, rule
from recprune_export.program.nodes import argument

aten = torch.ops.aten

_MOVES = "a kernel moves over it"
_POOLINGS = (
    aten.avg_pool1d.default,
    aten.avg_pool2d.default,
    aten.max_pool1d.default,
    aten.max_pool2d.default,
)
_ADAPTIVE_POOLINGS = (
    aten.adaptive_avg_pool1d.default,
    aten.adaptive_avg_pool2d.default,
    aten.adaptive_max_pool1d.default,
    aten.adaptive_max_pool2d.default,
)


@rule(aten.conv1d.default, aten.conv1d.padding, aten.conv2d.default, aten.conv2d.padding)
def convolution(walk: Walk, node: fx.Node) -> NodeTags:
    """`conv2d(x: B×C×L×D, W: O×C×h×1)`: C is contracted, O is a new width, D keeps its tags, L is frozen.

    A kernel of size 1 keeps its axis; a kernel as long as the axis sums over it; any other moves over it.
    """
    x, weight, bias = (walk.tags(argument(node, name)) for name in ("input", "weight", "bias"))
    assert x is not None and weight is not None
    space = len(weight.shape) - 2
    groups = argument(node, "groups")
    one_to_one = 1 < groups == x.shape[-space - 1] == weight.shape[0]
    if len(x.shape) == space + 1 or not (groups == 1 or one_to_one):
        for tags in (x, weight, bias):
            for ids in tags.removed_by if tags is not None else ():
                walk.freeze(node, ids, "the channels of the convolution are grouped")
        return walk.make_untagged(walk.env[node])
    x_axes: dict[object, int] = {"b": 0, ("o" if one_to_one else "c"): 1}
    weight_axes: dict[object, int] = {"o": 0} if one_to_one else {"o": 0, "c": 1}
    output: list[object] = ["b", "o"]
    for axis in range(2, space + 2):
        how = _along(node, axis - 2, x.shape[axis], weight.shape[axis])
        output.append(axis if how == "through" else None)
        if how != "moves":
            x_axes[axis] = axis
        else:
            walk.freeze(node, x.removed_by[axis], _MOVES)
        if how == "whole":
            weight_axes[axis] = axis
        else:
            walk.freeze(node, weight.removed_by[axis], _MOVES)
    operands = [
        (list(x_axes), x.take_axes(list(x_axes.values()))),
        (list(weight_axes), weight.take_axes(list(weight_axes.values()))),
    ]
    known = [letter for letter in output if letter is not None]
    product = contract(walk, node, operands, known)
    product = product.take_axes([None if letter is None else known.index(letter) for letter in output])
    result = _of_shape(product, walk.env[node].shape)
    return result if bias is None else add_bias(walk, node, result, bias.take_axes([0, *[None] * space]))


def _along(node: fx.Node, position: int, size: int, kernel: int) -> str:
    stride, padding = (_at(argument(node, name), position) for name in ("stride", "padding"))
    if kernel == 1 and stride == 1 and padding in (0, "same", "valid"):
        return "through"
    return "whole" if kernel == size and padding in (0, "valid") else "moves"


def _at(sizes: Any, position: int) -> Any:
    if not isinstance(sizes, (list, tuple)):
        return sizes
    return sizes[position] if len(sizes) > 1 else sizes[0]


def _of_shape(tags: TensorTags, shape: Sequence[int]) -> TensorTags:
    """Resize untagged axes to their size in the result."""

    def stretch(field: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(ids if len(ids) == n else make_untagged_axis(n) for ids, n in zip(field, shape, strict=True))

    return tags.map(stretch)


@rule(*_POOLINGS, *_ADAPTIVE_POOLINGS)
def pooling(walk: Walk, node: fx.Node) -> NodeTags:
    """`max_pool2d(x: B×C×L×D, [2, 1])`: C and D keep their tags, L is pooled and frozen."""
    x = walk.tags(argument(node, "self"))
    assert x is not None
    value = walk.env[node]
    first = value[0] if isinstance(value, (tuple, list)) else value
    space = 1 if "1d" in str(node.target) else 2
    before = len(x.shape) - space
    axes: list[int | None] = list(range(before))
    for axis in range(before, len(x.shape)):
        adaptive = node.target in _ADAPTIVE_POOLINGS
        kernel = x.shape[axis] if adaptive else _at(argument(node, "kernel_size"), axis - before)
        stride = 1 if adaptive else _at(argument(node, "stride") or kernel, axis - before)
        if kernel == stride == 1:
            axes.append(axis)
        else:
            walk.freeze(node, x.removed_by[axis], "it is pooled")
            axes.append(None)
    pooled = _of_shape(x.take_axes(axes), first.shape)
    return (pooled, pooled.without_zero_tags()) if isinstance(value, (tuple, list)) else pooled
