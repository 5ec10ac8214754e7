"""Columns: the source of a field with one number per row, traced through slices, casts and concatenations."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import (
    add_initializer,
    find_producer,
    get_axis,
    get_constant_integers,
    get_dims,
    get_rank,
)

_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)
_FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE)
EXACT_IN_FLOAT = 1 << 24  # integers below are exact in float32


@dataclass(frozen=True)
class ColumnSource:
    """One number for each row: column `index` of `source` [batch, n], or the vector `source` [batch], if the index is None.

    `is_integer`: whether it was cast to an integer; `through_float`: whether integers were cast to a floating-point type, which is exact
    only below `EXACT_IN_FLOAT`.
    """

    source: ir.Value
    index: int | None = None
    is_integer: bool = False
    through_float: bool = False


def trace_column(value: ir.Value) -> ColumnSource | None:
    """Trace a value of shape [batch] or [batch, 1] to its source; None for other shapes."""
    shape = get_dims(value)
    if shape is None or len(shape) > 2 or not shape or (len(shape) == 2 and shape[1] != 1):
        return None
    column = ColumnSource(value) if len(shape) == 1 else ColumnSource(value, 0)
    while (before := _trace_node(column)) is not None:
        column = before
    return column


def _trace_node(column: ColumnSource) -> ColumnSource | None:
    """Return the source of a column before the node that computes it; None at an input or an unknown operator."""
    value, index = column.source, column.index
    if node := find_producer(value, "Cast"):
        return _trace_cast(column, node)
    if index is None:
        return _trace_vector(column)
    if node := find_producer(value, "Unsqueeze", "Reshape"):  # [batch] to [batch, 1]
        source = node.inputs[0]
        before, after = get_dims(source), get_dims(value)
        return replace(column, source=source, index=None) if source and before and after == [*before, 1] else None
    if node := find_producer(value, "Slice"):
        return _trace_slice(column, node)
    if node := find_producer(value, "Split"):
        return _trace_split(column, node)
    if node := find_producer(value, "Gather"):
        source, picked = node.inputs[0], get_constant_integers(node.inputs[1])
        if (
            source is None
            or get_rank(source) != 2
            or get_axis(node, 2) != 1
            or picked is None
            or get_rank(node.inputs[1]) != 1
        ):
            return None
        return _select_column(column, source, picked[index])
    if node := find_producer(value, "Concat"):
        return _trace_concat(column, node)
    return None


def _trace_cast(column: ColumnSource, node: ir.Node) -> ColumnSource | None:
    source = node.inputs[0]
    if source is None or source.dtype is None or column.source.dtype is None:
        return None
    if column.source.dtype in _INTEGERS:
        return replace(column, source=source, is_integer=True) if source.dtype in (*_INTEGERS, *_FLOATS) else None
    # A cast to a floating-point type can be traced only where integers pass through it.
    if source.dtype in _INTEGERS and column.is_integer:
        return replace(column, source=source, through_float=True)
    return None


def _trace_vector(column: ColumnSource) -> ColumnSource | None:
    """Trace a vector [batch] to a column of a matrix [batch, 1] or [batch, n]."""
    node = find_producer(column.source, "Squeeze", "Gather", "Reshape")
    if node is None or node.inputs[0] is None or get_rank(node.inputs[0]) != 2:
        return None
    source = node.inputs[0]
    assert source.shape is not None
    if node.op_type == "Gather":
        picked = get_constant_integers(node.inputs[1])
        if get_axis(node, 2) != 1 or picked is None or get_rank(node.inputs[1]) != 0:
            return None
        return _select_column(column, source, picked[0])
    assert column.source.shape is not None
    return replace(column, source=source, index=0) if list(source.shape) == [column.source.shape[0], 1] else None


def _trace_slice(column: ColumnSource, node: ir.Node) -> ColumnSource | None:
    source = node.inputs[0]
    starts, axes, steps = (get_constant_integers(node.inputs[i]) if len(node.inputs) > i else None for i in (1, 3, 4))
    if source is None or get_rank(source) != 2 or starts is None or axes not in ([1], [-1]) or steps not in (None, [1]):
        return None
    assert column.index is not None
    return _select_column(column, source, starts[0], column.index)


def _trace_split(column: ColumnSource, node: ir.Node) -> ColumnSource | None:
    source = node.inputs[0]
    if source is None or get_rank(source) != 2 or get_axis(node, 2) != 1 or column.index is None:
        return None
    before = 0
    for result in node.outputs:
        if result is column.source:
            return _select_column(column, source, before, column.index)
        if result.shape is None or not isinstance(result.shape[1], int):
            return None
        before += result.shape[1]
    return None


def _trace_concat(column: ColumnSource, node: ir.Node) -> ColumnSource | None:
    index = column.index
    if get_rank(column.source) != 2 or get_axis(node, 2) != 1 or index is None:
        return None
    for operand in node.inputs:
        if operand is None or operand.shape is None or not isinstance(operand.shape[1], int):
            return None
        if index < operand.shape[1]:
            return _select_column(column, operand, index)
        index -= operand.shape[1]
    return None


def _select_column(column: ColumnSource, source: ir.Value, start: int, index: int = 0) -> ColumnSource | None:
    """Return column `start + index` of `source`; a negative `start` counts from the end."""
    assert source.shape is not None
    width = source.shape[1]
    if not isinstance(width, int):
        return None
    position = (start + width if start < 0 else start) + index
    return replace(column, source=source, index=position) if 0 <= position < width else None


def concat_columns(graph: ir.Graph, columns: Sequence[ColumnSource], name: str) -> tuple[ir.Value, list[ir.Node]]:
    """Return a value [batch, len(columns)] and the new nodes that compute it, in order; as few nodes as possible.

    All sources must have the same type.
    """
    if all(column.index is None for column in columns):
        return _join_vectors(graph, [column.source for column in columns], name)
    nodes: list[ir.Node] = []
    blocks = [_take_columns(graph, group, name, nodes) for group in _group_by_source(columns)]
    if len(blocks) == 1:
        return blocks[0], nodes
    nodes.append(ir.node("Concat", blocks, attributes={"axis": 1}))
    return nodes[-1].outputs[0], nodes


def _join_vectors(graph: ir.Graph, vectors: Sequence[ir.Value], name: str) -> tuple[ir.Value, list[ir.Node]]:
    """Concatenate vectors [batch] and transpose the result, which takes fewer nodes than an Unsqueeze for each."""
    joined = ir.node("Concat", list(vectors), attributes={"axis": 0})
    shape = add_initializer(graph, f"{name}_by_field", _int64_array(len(vectors), -1))
    by_field = ir.node("Reshape", [joined.outputs[0], shape])
    by_row = ir.node("Transpose", [by_field.outputs[0]], attributes={"perm": [1, 0]})
    return by_row.outputs[0], [joined, by_field, by_row]


def _group_by_source(columns: Sequence[ColumnSource]) -> list[list[ColumnSource]]:
    """Group neighbors that come from one matrix."""
    groups: list[list[ColumnSource]] = []
    for column in columns:
        if groups and column.index is not None and groups[-1][-1].source is column.source:
            groups[-1].append(column)
        else:
            groups.append([column])
    return groups


def _take_columns(graph: ir.Graph, group: Sequence[ColumnSource], name: str, nodes: list[ir.Node]) -> ir.Value:
    source, indices = group[0].source, [column.index for column in group]
    if indices == [None]:
        axes = add_initializer(graph, f"{name}_one", _int64_array(1))
        nodes.append(ir.node("Unsqueeze", [source, axes]))
        return nodes[-1].outputs[0]
    positions = [index for index in indices if index is not None]
    assert source.shape is not None
    if positions == list(range(int(source.shape[1]))):  # type: ignore[arg-type]
        return source
    first, last = positions[0], positions[-1]
    if positions == list(range(first, last + 1)):
        bounds = [
            add_initializer(graph, f"{name}_{label}", _int64_array(n))
            for label, n in (("from", first), ("to", last + 1), ("axis", 1))
        ]
        nodes.append(ir.node("Slice", [source, *bounds]))
    else:
        nodes.append(
            ir.node(
                "Gather",
                [source, add_initializer(graph, f"{name}_columns", _int64_array(*positions))],
                attributes={"axis": 1},
            )
        )
    return nodes[-1].outputs[0]


def _int64_array(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)
