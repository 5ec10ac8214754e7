"""Operators that move numbers: views, transposes, slices, concatenations, repetitions."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recprune_export.program.loading.onnx_graphs.onnx_graph import Node
from recprune_export.program.loading.onnx_graphs.operator_table import operator
from recprune_export.program.loading.onnx_graphs.values import (
    Value,
    as_tensor,
    check_size,
    is_symbolic,
    number,
    read_axes,
    whole_numbers,
)

_TO_THE_END = (1 << 31) - 1  # from here on an end is that of the axis


@operator("Reshape")
def reshape(node: Node, value: Value, sizes: Value) -> Tensor:
    """`Reshape(x, [0, -1])`: 0 keeps the size of the axis."""
    x = as_tensor(value)
    wanted = whole_numbers(node, sizes, "shape")
    if not node.get("allowzero", 0):
        wanted = [x.shape[axis] if not is_symbolic(size) and size == 0 else size for axis, size in enumerate(wanted)]
    return x.reshape(wanted)


@operator("Flatten")
def flatten(node: Node, value: Value) -> Tensor:
    """`Flatten(x, axis=1)` has two axes: what is before `axis`, and the rest."""
    x, axis = as_tensor(value), node.get("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    if axis == 1:
        return x.flatten(1) if x.ndim > 1 else x.reshape(x.shape[0], 1)
    if axis == 0:
        return x.reshape(1, -1)
    return (x.flatten(axis) if axis < x.ndim else x.unsqueeze(-1)).flatten(0, axis - 1)


@operator("Transpose")
def transpose(node: Node, value: Value) -> Tensor:
    """`Transpose(x, perm)`; without `perm` the axes are reversed."""
    x = as_tensor(value)
    return x.permute(node.get("perm") or list(reversed(range(x.ndim))))


@operator("Squeeze")
def squeeze(node: Node, value: Value, axes: Value | None = None) -> Tensor:
    """`Squeeze(x, [1])`."""
    x, given = as_tensor(value), read_axes(node, axes)
    if given is None:
        given = [axis for axis, size in enumerate(x.shape) if isinstance(size, int) and size == 1]
    for axis in sorted((axis % x.ndim for axis in given), reverse=True):
        x = x.squeeze(axis)
    return x


@operator("Unsqueeze")
def unsqueeze(node: Node, value: Value, axes: Value | None = None) -> Tensor:
    """`Unsqueeze(x, [1])`; the axes are those of the output."""
    x, given = as_tensor(value), read_axes(node, axes) or []
    rank = x.ndim + len(given)
    for axis in sorted(axis % rank for axis in given):
        x = x.unsqueeze(axis)
    return x


@operator("Concat")
def concat(node: Node, *values: Value) -> Tensor:
    """`Concat` along an axis."""
    return torch.cat([as_tensor(value) for value in values], node.get("axis", 0))


@operator("Split")
def split(node: Node, value: Value, sizes: Value | None = None) -> tuple[Tensor, ...]:
    """`Split` into given sizes, or into as many equal parts as there are outputs."""
    x, axis = as_tensor(value), node.get("axis", 0)
    parts = node.get("split") or whole_numbers(node, sizes, "sizes")
    if parts:
        return tuple(x.split(parts, axis))
    if is_symbolic(x.shape[axis]):
        raise node.refuse("divides the batch into parts")
    return tuple(x.split(-(-x.shape[axis] // len(node.outputs)), axis))


@operator("Slice")
def slice_tensor(
    node: Node, value: Value, starts: Value, ends: Value, axes: Value | None = None, steps: Value | None = None
) -> Tensor:
    """`Slice(x, starts, ends, axes, steps)`."""
    x = as_tensor(value)
    begins, stops = whole_numbers(node, starts, "starts"), whole_numbers(node, ends, "ends")
    along = whole_numbers(node, axes, "axes") or list(range(len(begins)))
    strides = whole_numbers(node, steps, "steps") or [1] * len(begins)
    for axis, begin, stop, stride in zip(along, begins, stops, strides, strict=True):
        x = _slice(node, x, axis % x.ndim, begin, stop, stride)
    return x


def _slice(node: Node, x: Tensor, axis: int, begin: Any, stop: Any, stride: Any) -> Tensor:
    if is_symbolic(stride) or stride == 0:
        raise node.refuse("has a step that is no fixed number")
    if stride < 0:
        size = x.shape[axis]
        if is_symbolic(size) or is_symbolic(begin) or is_symbolic(stop):
            raise node.refuse("goes backwards over an axis of varying size")
        wanted = range(size)[_bound(begin, size) : _bound(stop, size) : stride]
        if stride == -1 and len(wanted) == size:
            return x.flip(axis)
        return x.index_select(axis, torch.tensor(list(wanted), dtype=torch.int64))
    index: list[Any] = [slice(None)] * x.ndim
    whole = not is_symbolic(stop) and stop >= _TO_THE_END
    index[axis] = slice(begin, None if whole else stop, stride)
    return x[tuple(index)]


def _bound(position: int, size: int) -> int | None:
    """Return a start or end of a slice that goes backwards as Python reads it."""
    return None if position < -size or position >= size else position


@operator("Expand")
def expand(node: Node, value: Value, sizes: Value) -> Tensor:
    """`Expand(x, shape)` is broadcast in both directions: a size of 1 in `shape` keeps that of x."""
    x, wanted = as_tensor(value), whole_numbers(node, sizes, "shape")
    check_size(node, wanted)
    rank = max(len(wanted), x.ndim)
    own = [None] * (rank - x.ndim) + list(x.shape)
    asked = [1] * (rank - len(wanted)) + wanted
    return x.expand(
        [n if n is not None and not is_symbolic(m) and m == 1 else m for n, m in zip(own, asked, strict=True)]
    )


@operator("Tile")
def tile(node: Node, value: Value, repeats: Value) -> Tensor:
    """`Tile(x, [1, 3])`; along an axis of one number it is `expand`, which copies nothing."""
    x, times = as_tensor(value), whole_numbers(node, repeats, "repeats")
    check_size(node, [n * t for n, t in zip(x.shape, times, strict=True)])
    if all(
        (isinstance(n, int) and n == 1) or (isinstance(t, int) and t == 1) for n, t in zip(x.shape, times, strict=True)
    ):
        return x.expand([t if isinstance(n, int) and n == 1 else n for n, t in zip(x.shape, times, strict=True)])
    return x.repeat(times)


@operator("Pad")
def pad(
    node: Node, value: Value, pads: Value | None = None, constant: Value | None = None, axes: Value | None = None
) -> Tensor:
    """`Pad(x, [0, 1, 0, 1])`: the beginnings of all axes, then their ends."""
    x = as_tensor(value)
    mode = node.get("mode", "constant")
    widths = whole_numbers(node, pads, "widths")
    along = [axis % x.ndim for axis in whole_numbers(node, axes, "axes")] or list(range(x.ndim))
    flat = [0] * (2 * x.ndim)
    for position, axis in enumerate(along):
        reverse = 2 * (x.ndim - 1 - axis)
        flat[reverse], flat[reverse + 1] = widths[position], widths[position + len(along)]
    while len(flat) > 2 and not is_symbolic(flat[-1]) and not is_symbolic(flat[-2]) and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    if mode != "constant":
        raise node.refuse(f"pads by '{mode}'")
    return F.pad(x, flat, value=0.0 if constant is None else number(node, constant, "constant"))


@operator("Trilu")
def triangle(node: Node, value: Value, diagonal: Value | None = None) -> Tensor:
    """`Trilu(x, k)`: the upper triangle, or with `upper=0` the lower one."""
    k = 0 if diagonal is None else int(number(node, diagonal, "diagonal"))
    return torch.triu(as_tensor(value), k) if node.get("upper", 1) else torch.tril(as_tensor(value), k)


@operator("ReverseSequence")
def reverse_sequence(node: Node, value: Value, lengths: Value) -> Tensor:
    """`ReverseSequence` turns the first numbers of each row around, as many as its length says; the others stay."""
    x, counts = as_tensor(value), as_tensor(lengths)
    batch, time = node.get("batch_axis", 1), node.get("time_axis", 0)
    steps = torch.arange(x.shape[time])
    turned = counts.unsqueeze(1) - 1 - steps  # rows, steps
    positions = torch.where(turned < 0, steps, turned)
    positions = positions if batch < time else positions.t()
    index = positions.reshape([*positions.shape, *[1] * (x.ndim - 2)]).expand(x.shape)
    return torch.gather(x, time, index)


@operator("Constant")
def constant(node: Node) -> Value:
    """`Constant`: its tensor, or the numbers of another attribute."""
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if name in node.attributes:
            entry = node.attributes[name]
            dtype = np.float32 if "float" in name else np.int64
            return entry if isinstance(entry, np.ndarray) else np.array(entry, dtype=dtype)
    raise node.refuse("holds a sparse tensor or a text")
