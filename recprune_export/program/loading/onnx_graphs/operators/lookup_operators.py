"""Lookups of rows and positions, and writes to positions."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recprune_export.program.loading.onnx_graphs.onnx_graph import Node
from recprune_export.program.loading.onnx_graphs.operator_table import operator
from recprune_export.program.loading.onnx_graphs.values import (
    Value,
    as_operand,
    as_tensor,
    whole_number,
    whole_numbers,
)


@operator("Gather")
def gather(node: Node, value: Value, positions: Value) -> Tensor:
    """`Gather(table: V×D, ids: B)` is `embedding`, B×D; one known position of an axis is `select`."""
    x = as_tensor(value)
    axis = node.get("axis", 0) % x.ndim
    if not isinstance(positions, Tensor):
        wanted = whole_numbers(node, positions, "positions")
        if positions.ndim == 0:
            return x.select(axis, wanted[0])
        if _counts_up(wanted) and positions.ndim == 1:
            return x.narrow(axis, wanted[0], len(wanted))
        index = as_tensor(positions).to(torch.int64).reshape(-1)
        index = torch.where(index < 0, index + x.shape[axis], index) if min(wanted, default=0) < 0 else index
        return _restore(x.index_select(axis, index), x, axis, tuple(positions.shape))
    ids = as_tensor(positions)
    if axis == 0 and isinstance(x, nn.Parameter) and x.ndim == 2:
        return F.embedding(ids, x)
    if axis == 0 and isinstance(x, nn.Parameter) and x.ndim > 2:
        return _restore_rows(F.embedding(ids, x.flatten(1)), x)
    before: list[Any] = [slice(None)] * axis
    return x[(*before, ids.to(torch.int64))]


def _counts_up(positions: list[Any]) -> bool:
    return (
        len(positions) > 0
        and positions == list(range(positions[0], positions[0] + len(positions)))
        and positions[0] >= 0
    )


def _restore(taken: Tensor, x: Tensor, axis: int, shape: tuple[int, ...]) -> Tensor:
    """Return taken positions with the axes that the positions had."""
    return taken if len(shape) == 1 else taken.reshape([*x.shape[:axis], *shape, *x.shape[axis + 1 :]])


def _restore_rows(rows: Tensor, table: Tensor) -> Tensor:
    return rows.unflatten(-1, table.shape[1:])


@operator("GatherElements")
def gather_elements(node: Node, value: Value, positions: Value) -> Tensor:
    """`GatherElements(x, index)` is `gather`."""
    x, index = as_tensor(value), as_tensor(positions).to(torch.int64)
    axis = node.get("axis", 0)
    size = x.shape[axis]
    if not isinstance(positions, Tensor) and not bool((positions < 0).any()):
        return torch.gather(x, axis, index)
    return torch.gather(x, axis, torch.where(index < 0, index + size, index))


@operator("GatherND")
def gather_nd(node: Node, value: Value, positions: Value) -> Tensor:
    """`GatherND(x, index: …×K)` takes x[i_1, …, i_K]; with `batch_dims=1` from each row its own."""
    x, index = as_tensor(value), as_tensor(positions).to(torch.int64)
    batch_axes = node.get("batch_dims", 0)
    coordinates = list(index.unbind(-1))
    if batch_axes > 1:
        raise node.refuse("has more than one batch axis")
    if batch_axes == 1:
        rows = torch.arange(x.shape[0]).reshape([x.shape[0], *[1] * (index.ndim - 2)])
        coordinates = [rows, *coordinates]
    if len(coordinates) == 1:
        ids = coordinates[0]
        if isinstance(x, nn.Parameter) and x.ndim == 2:
            return F.embedding(ids, x)
        return x[ids]
    return x[tuple(coordinates)]


@operator("OneHot")
def one_hot(node: Node, positions: Value, depth: Value, values: Value) -> Tensor:
    """`OneHot(ids, depth, [off, on])`; an id out of range has no `on`."""
    if isinstance(values, Tensor):
        raise node.refuse("takes its two values from the request or from a weight")
    count = whole_number(node, depth, "depth")
    ids = as_tensor(positions)
    off, on = values.reshape(-1).tolist()
    axis = node.get("axis", -1)
    axis = axis + ids.ndim + 1 if axis < 0 else axis
    wrapped = torch.where(ids < 0, ids + count, ids).unsqueeze(axis)
    places = torch.arange(count, dtype=ids.dtype).reshape([count, *[1] * (ids.ndim - axis)])
    hot = wrapped == places
    dtype = torch.from_numpy(values.copy()).dtype
    if (off, on) == (0, 1):
        return hot.to(dtype)
    return torch.where(hot, torch.tensor(on, dtype=dtype), torch.tensor(off, dtype=dtype))


@operator("ScatterElements", "Scatter")
def scatter_elements(node: Node, value: Value, positions: Value, updates: Value) -> Tensor:
    """`ScatterElements(x, index, updates)` writes numbers to positions along an axis."""
    x, index, new = as_tensor(value), as_tensor(positions).to(torch.int64), as_tensor(updates)
    axis, reduction = node.get("axis", 0), node.get("reduction", "none")
    index = torch.where(index < 0, index + x.shape[axis], index)
    if reduction == "none":
        return x.scatter(axis, index, new)
    if reduction == "add":
        return x.scatter_add(axis, index, new)
    raise node.refuse(f"writes by '{reduction}'")


@operator("ScatterND")
def scatter_nd(node: Node, value: Value, positions: Value, updates: Value) -> Tensor:
    """`ScatterND(x, index, updates)` writes slices to positions."""
    x, index, new = as_tensor(value), as_tensor(positions).to(torch.int64), as_tensor(updates)
    reduction = node.get("reduction", "none")
    if reduction not in ("none", "add"):
        raise node.refuse(f"writes by '{reduction}'")
    return x.index_put(tuple(index.unbind(-1)), new, accumulate=reduction == "add")


@operator("Compress")
def compress(node: Node, value: Value, condition: Value) -> Tensor:
    """`Compress(x, [true, false, …])` with known booleans."""
    if isinstance(condition, Tensor):
        raise node.refuse("takes the positions that it keeps from the values of the request")
    x, axis = as_tensor(value), node.get("axis")
    kept = torch.tensor([i for i, keep in enumerate(condition.reshape(-1).tolist()) if keep], dtype=torch.int64)
    return x.reshape(-1).index_select(0, kept) if axis is None else x.index_select(axis, kept)


@operator("NonZero")
def nonzero(node: Node, value: Value) -> Any:
    """`NonZero` of known numbers, as the positions of a triangle are exported."""
    if isinstance(value, Tensor):
        raise node.refuse("makes as many positions as the values of the request say")
    return torch.from_numpy(value.astype(bool)).nonzero().t().contiguous()


@operator("ConstantOfShape")
def constant_of_shape(node: Node, sizes: Value) -> Tensor:
    """`ConstantOfShape([batch, 3])`."""
    fill = node.get("value")
    dtype = torch.float32 if fill is None else torch.from_numpy(fill.copy()).dtype
    return torch.full(
        whole_numbers(node, sizes, "shape"), 0.0 if fill is None else fill.reshape(-1)[0].item(), dtype=dtype
    )


@operator("Range")
def arange(node: Node, start: Value, limit: Value, step: Value) -> Tensor:
    """`Range(0, batch, 1)`."""
    if any(isinstance(value, Tensor) for value in (start, limit, step)):
        raise node.refuse("takes its limits from the values of the request, not from its sizes")
    dtype = next((as_tensor(v).dtype for v in (start, limit, step) if v.dtype != object), torch.int64)
    return torch.arange(
        *(as_operand(v, v) if v.dtype != object else v.reshape(-1)[0] for v in (start, limit, step)), dtype=dtype
    )


@operator("EyeLike")
def eye_like(node: Node, value: Value) -> Tensor:
    """`EyeLike(x: N×M)`."""
    x = as_tensor(value)
    from recprune_export.program.loading.onnx_graphs.operators.elementwise_operators import DTYPES

    dtype = DTYPES.get(node.get("dtype"), x.dtype)
    rows, columns = x.shape
    return torch.triu(torch.tril(torch.ones(rows, columns, dtype=dtype), node.get("k", 0)), node.get("k", 0))
