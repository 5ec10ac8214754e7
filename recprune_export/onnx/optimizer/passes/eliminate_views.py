"""Casts, transposes and reshapes that undo or follow each other."""

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
    """Make one movement of two, and none of what moves nothing.

    Before: a Transpose of a Transpose, a Reshape (Squeeze, Unsqueeze, Flatten) of another, a cast to the type a value
    has, a transpose that keeps the order, a view that keeps the shape, a cast there and back that loses nothing. After:
    one Transpose with both orders, one Reshape to the last shape, or the value itself.

    Returns the number of nodes that are gone or merged.
    """
    graph = model.graph
    merged = 0
    for node in find_nodes(graph, "Transpose", "Cast", "Identity", *_VIEWS):
        merged += _nothing(graph, node) or _transposes(graph, node) or _views(graph, node) or _casts(graph, node)
    return merged


_VIEWS = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
_KEEPS = {  # every number of the first type is one of the second
    (ir.DataType.INT32, ir.DataType.INT64),
    (ir.DataType.INT32, ir.DataType.DOUBLE),
    (ir.DataType.FLOAT, ir.DataType.DOUBLE),
    (ir.DataType.FLOAT16, ir.DataType.FLOAT),
    (ir.DataType.BOOL, ir.DataType.INT64),
    (ir.DataType.BOOL, ir.DataType.FLOAT),
}


def _nothing(graph: ir.Graph, node: ir.Node) -> int:
    """What gives its operand as it is."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None or result.is_graph_output():
        return 0
    order = list(node.attributes.get_ints("perm", []))
    same = {
        "Identity": True,
        "Cast": source.dtype is not None and source.dtype.value == node.attributes.get_int("to", 0),
        "Transpose": bool(order) and order == sorted(order),
    }.get(node.op_type, _static(source) is not None and _static(source) == _static(result))
    if not same:
        return 0
    replace_uses(result, source)
    graph.remove(node, safe=True)
    return 1


def _transposes(graph: ir.Graph, node: ir.Node) -> int:
    first = find_producer(node.inputs[0], "Transpose") if node.op_type == "Transpose" else None
    if first is None:
        return 0
    one, two = (list(each.attributes.get_ints("perm", [])) for each in (first, node))
    if not one or not two:
        return 0
    replace_node(
        graph, node, [ir.node("Transpose", [first.inputs[0]], attributes={"perm": [one[axis] for axis in two]})]
    )
    return 1


def _views(graph: ir.Graph, node: ir.Node) -> int:
    """A view of a view: one to the last shape, if at most the batch of that is unknown."""
    first = find_producer(node.inputs[0], *_VIEWS) if node.op_type in _VIEWS else None
    shape = get_dims(node.outputs[0])
    if first is None or shape is None or sum(not isinstance(size, int) for size in shape) > 1 or 0 in shape:
        return 0
    sizes = np.array([size if isinstance(size, int) else -1 for size in shape], dtype=np.int64)
    wanted = add_initializer(graph, f"{node.outputs[0].name}_sizes", sizes)
    replace_node(graph, node, [ir.node("Reshape", [first.inputs[0], wanted])])
    return 1


def _casts(graph: ir.Graph, node: ir.Node) -> int:
    """There and back."""
    first = find_producer(node.inputs[0], "Cast") if node.op_type == "Cast" else None
    source = first.inputs[0] if first else None
    middle = node.inputs[0]
    if first is None or source is None or middle is None or source.dtype is None or middle.dtype is None:
        return 0
    back = source.dtype.value == node.attributes.get_int("to", 0)
    if not back or (source.dtype, middle.dtype) not in _KEEPS or node.outputs[0].is_graph_output():
        return 0
    replace_uses(node.outputs[0], source)
    graph.remove(node, safe=True)
    return 1


def _static(value: ir.Value) -> list[int | ir.SymbolicDim] | None:
    """A shape of which nothing but the batch is unknown."""
    shape = get_dims(value)
    return shape if shape is not None and get_rank(value) and all(isinstance(size, int) for size in shape[1:]) else None
