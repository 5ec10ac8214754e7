"""Columns that are joined only to be cut again, or cut one by one, cast one by one, and joined again."""

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
    """Cut columns out of what a join was made of.

    Before: `Slice(Concat(x, y, …), i, j)` along axis 1, all of i to j in x. After: `Slice(x, …)`, or x itself.

    Returns the number of cuts that were changed.
    """
    graph, changed = model.graph, 0
    for node in find_nodes(graph, "Slice"):
        bounds = [get_constant_integers(value) for value in node.inputs[1:]]
        source = node.inputs[0]
        part = _part_of(source, bounds[0], get_dims(node.outputs[0])) if bounds[2:] in ([[1]], [[1], [1]]) else None
        if part is None:
            continue
        operand, first, width = part
        if get_dims(operand) == get_dims(node.outputs[0]):
            new = ir.node("Identity", [operand])
        else:
            edges = {"from": first, "to": first + width, "axis": 1}
            name = node.outputs[0].name
            new = ir.node(
                "Slice", [operand, *(add_initializer(graph, f"{name}_{w}", np.array([n])) for w, n in edges.items())]
            )
        replace_node(graph, node, [new])
        changed += 1
    return changed


def _part_of(
    joined: ir.Value | None, start: list[int] | None, shape: list[Dim] | None
) -> tuple[ir.Value, int, int] | None:
    """The operand of a join that holds all columns of a cut, where they begin in it, and how many they are."""
    join_node, total = find_producer(joined, "Concat"), get_dims(joined)
    if (
        join_node is None
        or total is None
        or start is None
        or shape is None
        or len(total) != 2
        or get_axis(join_node, 2) != 1
    ):
        return None
    width, all_columns = shape[1], total[1]
    if not isinstance(width, int) or not isinstance(all_columns, int):
        return None
    first = start[0] + all_columns if start[0] < 0 else start[0]
    for operand in join_node.inputs:
        columns = operand.shape[1] if operand is not None and operand.shape is not None else None
        if operand is None or not isinstance(columns, int):
            return None
        if first < columns:
            return (operand, first, width) if first + width <= columns else None
        first -= columns
    return None


def merge_column_slices(model: ir.Model) -> int:
    """Take columns that belong together out of their matrix together.

    Before: `Concat(x[:, i], x[:, i + 1], …)` along axis 1, the columns cut by Slice, Split or Gather, perhaps out of a
    Concat themselves. After: x itself, one Slice or one Gather of it.

    Returns the number of joins that were changed.
    """
    changed = 0
    for node in find_nodes(model.graph, "Concat"):
        if get_rank(node.outputs[0]) == 2 and get_axis(node, 2) == 1:
            changed += _join(model.graph, node)
    return changed


def _join(graph: ir.Graph, node: ir.Node) -> int:
    operands: list[ir.Value] = [value for value in node.inputs if value is not None]
    new: list[ir.Node] = []
    parts: list[ir.Value] = []
    for run in _runs(operands):
        columns = [_uncast(value) for value in run]
        if len(run) == 1 or None in columns:
            parts += run
            continue
        part, nodes = concat_columns(
            graph, [column for column in columns if column is not None], f"{run[0].name}_columns"
        )
        parts.append(part)
        new += nodes
    if len(parts) == len(operands):
        return 0
    if len(parts) > 1:
        new.append(ir.node("Concat", parts, attributes={"axis": 1}))
    elif not new:
        new.append(ir.node("Identity", parts))
    replace_node(graph, node, new)
    return 1


def _runs(operands: Sequence[ir.Value]) -> list[list[ir.Value]]:
    """Neighbours that are columns of one matrix; whatever is not stands alone."""
    runs: list[list[ir.Value]] = []
    for value in operands:
        column, last = _uncast(value), _uncast(runs[-1][-1]) if runs else None
        if column is not None and last is not None and column.source is last.source and column.source is not value:
            runs[-1].append(value)
        else:
            runs.append([value])
    return runs


def _uncast(value: ir.Value) -> ColumnSource | None:
    """The column of a matrix that a value [batch, 1] is, if no cast lies between."""
    column = trace_column(value) if get_rank(value) == 2 else None
    plain = column is not None and column.index is not None and column.source.dtype == value.dtype
    return column if plain and not column.is_integer and not column.through_float else None  # type: ignore[union-attr]


def hoist_cast(model: ir.Model) -> int:
    """Cast a matrix instead of each of its columns.

    Before: `Cast(x[:, i])`, `Cast(x[:, j])`, … to one type, the columns cut by Slice or Gather along axis 1. After:
    `y = Cast(x)`, and y[:, i], y[:, j], … in their places.

    Returns the number of casts that are gone.
    """
    graph = model.graph
    groups: dict[tuple[ir.Value, int], list[ir.Node]] = {}
    for node in find_nodes(graph, "Cast"):
        cut = find_producer(node.inputs[0], "Slice", "Gather")
        source = cut.inputs[0] if cut else None
        if cut and source is not None and source.const_value is None and get_rank(source) == 2 and _along_columns(cut):
            groups.setdefault((source, node.attributes.get_int("to", 0)), []).append(node)
    gone = 0
    for (source, kind), casts in groups.items():
        if len(casts) > 1:
            _cast(graph, source, kind, casts)
            gone += len(casts) - 1
    if gone:
        graph.sort()
    return gone


def _along_columns(cut: ir.Node) -> bool:
    if cut.op_type == "Gather":
        return get_axis(cut, 2) == 1
    axes = cut.inputs[3] if len(cut.inputs) > 3 else None
    return axes is not None and axes.const_value is not None and axes.const_value.numpy().tolist() in ([1], [-1])


def _cast(graph: ir.Graph, source: ir.Value, kind: int, casts: Sequence[ir.Node]) -> None:
    whole = ir.node("Cast", [source], attributes={"to": kind})
    whole.outputs[0].shape, whole.outputs[0].type = source.shape, casts[0].outputs[0].type
    graph.insert_before(graph[0], [whole])
    for cast in casts:
        cut = find_producer(cast.inputs[0], "Slice", "Gather")
        assert cut is not None
        replace_node(
            graph, cast, [ir.node(cut.op_type, [whole.outputs[0], *cut.inputs[1:]], attributes=cut.attributes)]
        )


def flatten_nested_concat(model: ir.Model) -> int:
    """Join in one step what is joined in two.

    Before: `Concat(…, Concat(x, y, …), …)`, both along the same axis, the inner one read by nothing else. After:
    `Concat(…, x, y, …, …)`: what the inner one joined is copied once.

    Returns the number of joins that are gone.
    """
    graph, gone = model.graph, 0
    for node in find_nodes(graph, "Concat"):
        axes = get_rank(node.outputs[0])
        operands: list[ir.Value | None] = []
        for value in node.inputs:
            inner = find_producer(value, "Concat")
            whole = value is not None and inner is not None and axes is not None and find_only_consumer(value) is node
            if whole and inner is not None and get_axis(inner, axes or 1) == get_axis(node, axes or 1):
                operands += inner.inputs
            else:
                operands.append(value)
        if len(operands) > len(node.inputs):
            gone += len(operands) - len(node.inputs)
            replace_node(graph, node, [ir.node("Concat", operands, attributes={"axis": get_axis(node, axes or 1)})])
    return gone


def concat_then_reshape(model: ir.Model) -> int:
    """Join vectors first, and give them their axis together.

    Before: `Concat(Unsqueeze(v₁, 1), …, Unsqueeze(vₙ, 1))` along axis 1 of n vectors [batch, D], n at least 3. After:
    `Reshape(Concat(v₁, …, vₙ), [-1, n, D])`.

    Returns the number of joins that were changed.
    """
    changed = 0
    for node in find_nodes(model.graph, "Concat"):
        shape = get_dims(node.outputs[0])
        vectors = [_vector(value) for value in node.inputs]
        if shape is None or len(shape) != 3 or get_axis(node, 3) != 1 or len(vectors) < 3 or None in vectors:
            continue
        sizes = add_initializer(model.graph, f"{node.outputs[0].name}_sizes", np.array([-1, len(vectors), shape[2]]))
        flat = ir.node("Concat", vectors, attributes={"axis": 1})
        replace_node(model.graph, node, [flat, ir.node("Reshape", [flat.outputs[0], sizes])])
        changed += 1
    return changed


def _vector(value: ir.Value | None) -> ir.Value | None:
    """[batch, D] of which `value` [batch, 1, D] is the view."""
    node = find_producer(value, "Unsqueeze", "Reshape")
    source = node.inputs[0] if node else None
    before, after = get_dims(source), get_dims(value)
    fits = before is not None and after is not None and len(before) == 2 and isinstance(before[1], int)
    return source if fits and after == [before[0], 1, before[1]] else None  # type: ignore[index]
