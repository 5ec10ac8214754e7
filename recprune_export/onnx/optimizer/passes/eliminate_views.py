"""Casts, transposes and reshapes that cancel out or can be merged."""

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import (
    add_initializer,
    find_nodes,
    find_producer,
    get_dims,
    get_rank,
    replace_node,
    replace_uses,
)


def eliminate_views(model: ir.Model) -> int:
    """Merge consecutive views, and remove nodes without effect.

    Before: a Transpose of a Transpose, a Reshape (Squeeze, Unsqueeze, Flatten) of another, a cast to the value's own
    type, a transpose that keeps the order, a view that keeps the shape, a lossless cast and the cast back. After: one
    Transpose with both orders, one Reshape to the last shape, or the value itself.

    Returns the number of removed or merged nodes.
    """
    graph = model.graph
    merged = 0
    for node in find_nodes(graph, "Transpose", "Cast", "Identity", *_VIEWS):
        merged += (
            _remove_identity(graph, node)
            or _merge_transposes(graph, node)
            or _merge_views(graph, node)
            or _remove_cast_pair(graph, node)
        )
    return merged


_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
_LOSSLESS_CASTS = {  # every number of the first type is one of the second
    (ir.DataType.INT32, ir.DataType.INT64),
    (ir.DataType.INT32, ir.DataType.DOUBLE),
    (ir.DataType.FLOAT, ir.DataType.DOUBLE),
    (ir.DataType.FLOAT16, ir.DataType.FLOAT),
    (ir.DataType.BOOL, ir.DataType.INT64),
    (ir.DataType.BOOL, ir.DataType.FLOAT),
}


def _remove_identity(graph: ir.Graph, node: ir.Node) -> int:
    """Remove a node whose result equals its operand; return 1 if it was removed, else 0."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or result.is_graph_output():
        return 0
    order = list(node.attributes.get_ints("perm", []))
    is_identity = {
        "Identity": True,
        "Cast": source.dtype is not None and source.dtype.value == node.attributes.get_int("to", 0),
        "Transpose": bool(order) and order == sorted(order),
    }.get(
        node.op_type, _get_static_shape(source) is not None and _get_static_shape(source) == _get_static_shape(result)
    )
    if not is_identity:
        return 0
    replace_uses(result, source)
    graph.remove(node, safe=True)
    return 1


def _merge_transposes(graph: ir.Graph, node: ir.Node) -> int:
    first = find_producer(node.inputs[0], "Transpose") if node.op_type == "Transpose" else None
    if first is None:
        return 0
    first_order, second_order = (list(transpose.attributes.get_ints("perm", [])) for transpose in (first, node))
    if not first_order or not second_order:
        return 0
    replace_node(
        graph,
        node,
        [ir.node("Transpose", [first.inputs[0]], attributes={"perm": [first_order[axis] for axis in second_order]})],
    )
    return 1


def _merge_views(graph: ir.Graph, node: ir.Node) -> int:
    """Merge a view of a view into one Reshape, if at most one size of the last shape is unknown."""
    first = find_producer(node.inputs[0], *_VIEWS) if node.op_type in _VIEWS else None
    shape = get_dims(node.outputs[0])
    if first is None or shape is None or sum(not isinstance(size, int) for size in shape) > 1 or 0 in shape:
        return 0
    sizes = np.array([size if isinstance(size, int) else -1 for size in shape], dtype=np.int64)
    target_shape = add_initializer(graph, f"{node.outputs[0].name}_sizes", sizes)
    replace_node(graph, node, [ir.node("Reshape", [first.inputs[0], target_shape])])
    return 1


def _remove_cast_pair(graph: ir.Graph, node: ir.Node) -> int:
    """Remove a lossless cast and the cast back; return 1 if they were removed, else 0."""
    first = find_producer(node.inputs[0], "Cast") if node.op_type == "Cast" else None
    source = first.inputs[0] if first else None
    middle = node.inputs[0]
    if first is None or source is None or middle is None or source.dtype is None or middle.dtype is None:
        return 0
    restores_type = source.dtype.value == node.attributes.get_int("to", 0)
    if not restores_type or (source.dtype, middle.dtype) not in _LOSSLESS_CASTS or node.outputs[0].is_graph_output():
        return 0
    replace_uses(node.outputs[0], source)
    graph.remove(node, safe=True)
    return 1


def _get_static_shape(value: ir.Value) -> list[int | ir.SymbolicDim] | None:
    """Return a shape in which only the batch is unknown, else None."""
    shape = get_dims(value)
    return shape if shape is not None and get_rank(value) and all(isinstance(size, int) for size in shape[1:]) else None
