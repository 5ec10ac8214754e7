"""Columns that are concatenated and sliced again, or sliced and cast one by one and concatenated again."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import (
    Dim,
    add_initializer,
    find_nodes,
    find_only_consumer,
    find_producer,
    get_axis,
    get_constant_integers,
    get_dims,
    get_rank,
    replace_node,
)
from recprune_export.onnx.optimizer.columns import ColumnSource, concat_columns, trace_column


def slice_before_concat(model: ir.Model) -> int:
    """Slice the operand of a Concat instead of its result.

    Before: `Slice(Concat(x, y, …), i, j)` along axis 1, all of i to j in x. After: `Slice(x, …)`, or x itself.

    Returns the number of changed slices.
    """
    graph, changed = model.graph, 0
    for node in find_nodes(graph, "Slice"):
        bounds = [get_constant_integers(value) for value in node.inputs[1:]]
        source = node.inputs[0]
        piece = (
            _find_sliced_operand(source, bounds[0], get_dims(node.outputs[0]))
            if bounds[2:] in ([[1]], [[1], [1]])
            else None
        )
        if piece is None:
            continue
        operand, first, width = piece
        if get_dims(operand) == get_dims(node.outputs[0]):
            new = ir.node("Identity", [operand])
        else:
            new_bounds = {"from": first, "to": first + width, "axis": 1}
            name = node.outputs[0].name
            new = ir.node(
                "Slice",
                [
                    operand,
                    *(
                        add_initializer(graph, f"{name}_{label}", np.array([bound]))
                        for label, bound in new_bounds.items()
                    ),
                ],
            )
        replace_node(graph, node, [new])
        changed += 1
    return changed


def _find_sliced_operand(
    concatenated: ir.Value | None, start: list[int] | None, shape: list[Dim] | None
) -> tuple[ir.Value, int, int] | None:
    """Return the operand of a Concat that holds all columns of a slice, their first index in it, and their number."""
    concat, total = find_producer(concatenated, "Concat"), get_dims(concatenated)
    if concat is None or total is None or start is None or shape is None or len(total) != 2 or get_axis(concat, 2) != 1:
        return None
    width, total_width = shape[1], total[1]
    if not isinstance(width, int) or not isinstance(total_width, int):
        return None
    first = start[0] + total_width if start[0] < 0 else start[0]
    for operand in concat.inputs:
        columns = operand.shape[1] if operand is not None and operand.shape is not None else None
        if operand is None or not isinstance(columns, int):
            return None
        if first < columns:
            return (operand, first, width) if first + width <= columns else None
        first -= columns
    return None


def merge_column_slices(model: ir.Model) -> int:
    """Merge slices of neighboring columns of a matrix.

    Before: `Concat(x[:, i], x[:, i + 1], …)` along axis 1, the columns taken by Slice, Split or Gather, possibly from a
    Concat. After: x itself, one Slice or one Gather of it.

    Returns the number of changed Concats.
    """
    changed = 0
    for node in find_nodes(model.graph, "Concat"):
        if get_rank(node.outputs[0]) == 2 and get_axis(node, 2) == 1:
            changed += _merge_slices(model.graph, node)
    return changed


def _merge_slices(graph: ir.Graph, node: ir.Node) -> int:
    operands: list[ir.Value] = [value for value in node.inputs if value is not None]
    new: list[ir.Node] = []
    merged: list[ir.Value] = []
    for group in _group_columns(operands):
        columns = [_trace_plain_column(value) for value in group]
        if len(group) == 1 or None in columns:
            merged += group
            continue
        block, nodes = concat_columns(
            graph, [column for column in columns if column is not None], f"{group[0].name}_columns"
        )
        merged.append(block)
        new += nodes
    if len(merged) == len(operands):
        return 0
    if len(merged) > 1:
        new.append(ir.node("Concat", merged, attributes={"axis": 1}))
    elif not new:
        new.append(ir.node("Identity", merged))
    replace_node(graph, node, new)
    return 1


def _group_columns(operands: Sequence[ir.Value]) -> list[list[ir.Value]]:
    """Group neighbors that are columns of one matrix; other values form groups of one."""
    groups: list[list[ir.Value]] = []
    for value in operands:
        column, last = _trace_plain_column(value), _trace_plain_column(groups[-1][-1]) if groups else None
        if column is not None and last is not None and column.source is last.source and column.source is not value:
            groups[-1].append(value)
        else:
            groups.append([value])
    return groups


def _trace_plain_column(value: ir.Value) -> ColumnSource | None:
    """Return the matrix column that a value [batch, 1] holds, if there is no cast in between."""
    column = trace_column(value) if get_rank(value) == 2 else None
    is_plain = column is not None and column.index is not None and column.source.dtype == value.dtype
    return column if is_plain and not column.is_integer and not column.through_float else None  # type: ignore[union-attr]


def hoist_cast(model: ir.Model) -> int:
    """Cast a matrix instead of each of its columns.

    Before: `Cast(x[:, i])`, `Cast(x[:, j])`, … to one type, the columns taken by Slice or Gather along axis 1. After:
    `y = Cast(x)`, and y[:, i], y[:, j], … instead of the casts.

    Returns the number of removed casts.
    """
    graph = model.graph
    groups: dict[tuple[ir.Value, int], list[ir.Node]] = {}
    for node in find_nodes(graph, "Cast"):
        column_slice = find_producer(node.inputs[0], "Slice", "Gather")
        source = column_slice.inputs[0] if column_slice else None
        if (
            column_slice
            and source is not None
            and source.const_value is None
            and get_rank(source) == 2
            and _selects_columns(column_slice)
        ):
            groups.setdefault((source, node.attributes.get_int("to", 0)), []).append(node)
    removed = 0
    for (source, dtype), casts in groups.items():
        if len(casts) > 1:
            _cast_matrix(graph, source, dtype, casts)
            removed += len(casts) - 1
    if removed:
        graph.sort()
    return removed


def _selects_columns(column_slice: ir.Node) -> bool:
    if column_slice.op_type == "Gather":
        return get_axis(column_slice, 2) == 1
    axes = column_slice.inputs[3] if len(column_slice.inputs) > 3 else None
    return axes is not None and axes.const_value is not None and axes.const_value.numpy().tolist() in ([1], [-1])


def _cast_matrix(graph: ir.Graph, source: ir.Value, dtype: int, casts: Sequence[ir.Node]) -> None:
    matrix_cast = ir.node("Cast", [source], attributes={"to": dtype})
    matrix_cast.outputs[0].shape, matrix_cast.outputs[0].type = source.shape, casts[0].outputs[0].type
    graph.insert_before(graph[0], [matrix_cast])
    for cast in casts:
        column_slice = find_producer(cast.inputs[0], "Slice", "Gather")
        assert column_slice is not None
        replace_node(
            graph,
            cast,
            [
                ir.node(
                    column_slice.op_type,
                    [matrix_cast.outputs[0], *column_slice.inputs[1:]],
                    attributes=column_slice.attributes,
                )
            ],
        )


def flatten_nested_concat(model: ir.Model) -> int:
    """Flatten nested Concats.

    Before: `Concat(…, Concat(x, y, …), …)`, both along the same axis, the inner one read by nothing else. After:
    `Concat(…, x, y, …, …)`: the operands of the inner one are copied once.

    Returns the number of removed Concats.
    """
    graph, removed = model.graph, 0
    for node in find_nodes(graph, "Concat"):
        axes = get_rank(node.outputs[0])
        operands: list[ir.Value | None] = []
        for value in node.inputs:
            inner = find_producer(value, "Concat")
            has_one_consumer = (
                value is not None and inner is not None and axes is not None and find_only_consumer(value) is node
            )
            if has_one_consumer and inner is not None and get_axis(inner, axes or 1) == get_axis(node, axes or 1):
                operands += inner.inputs
            else:
                operands.append(value)
        if len(operands) > len(node.inputs):
            removed += len(operands) - len(node.inputs)
            replace_node(graph, node, [ir.node("Concat", operands, attributes={"axis": get_axis(node, axes or 1)})])
    return removed


def concat_then_reshape(model: ir.Model) -> int:
    """Concatenate vectors before the reshape that adds an axis.

    Before: `Concat(Unsqueeze(v₁, 1), …, Unsqueeze(vₙ, 1))` along axis 1 of n vectors [batch, D], n at least 3. After:
    `Reshape(Concat(v₁, …, vₙ), [-1, n, D])`.

    Returns the number of changed Concats.
    """
    changed = 0
    for node in find_nodes(model.graph, "Concat"):
        shape = get_dims(node.outputs[0])
        vectors = [_match_vector(value) for value in node.inputs]
        if shape is None or len(shape) != 3 or get_axis(node, 3) != 1 or len(vectors) < 3 or None in vectors:
            continue
        sizes = add_initializer(model.graph, f"{node.outputs[0].name}_sizes", np.array([-1, len(vectors), shape[2]]))
        flat = ir.node("Concat", vectors, attributes={"axis": 1})
        replace_node(model.graph, node, [flat, ir.node("Reshape", [flat.outputs[0], sizes])])
        changed += 1
    return changed


def _match_vector(value: ir.Value | None) -> ir.Value | None:
    """Return the vectors [batch, D] of which `value` [batch, 1, D] is a view, or None."""
    node = find_producer(value, "Unsqueeze", "Reshape")
    source = node.inputs[0] if node else None
    before, after = get_dims(source), get_dims(value)
    fits = before is not None and after is not None and len(before) == 2 and isinstance(before[1], int)
    return source if fits and after == [before[0], 1, before[1]] else None  # type: ignore[index]
