"""Layer norms of sums in a form that ONNX Runtime does not fuse."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.onnx.graph import (
    add_initializer,
    find_nodes,
    find_producer,
    get_dims,
    get_rank,
    replace_node,
    replace_uses,
)
from recprune_export.onnx.optimizer.passes.eliminate_views import eliminate_views


def layer_norm_of_sum_by_rows(model: ir.Model) -> int:
    """Add and normalize sequences as rows of two axes.

    Before: `LayerNormalization(Add(x, y), scale, bias)` of x and y [batch, L, D]. After: `Reshape(LayerNormalization(Add(x, y),
    scale, bias), [-1, L, D])` of x and y [batch · L, D], which are views or the values before an existing view; views of views are
    merged. ONNX Runtime 1.32 fuses an Add and a norm of three axes into SkipLayerNormalization, whose kernel takes 2.5 to 4 times as long
    as both; with two axes it does not. A Reshape copies nothing.

    Returns the number of changed norms.
    """
    graph = model.graph
    norms = [node for node in find_nodes(graph, "LayerNormalization") if _is_norm_of_sum(node)]
    for norm in norms:
        _replace(graph, norm)
    if norms:
        graph.sort()
        fill_shapes(model)
        while eliminate_views(model):  # a merged view may have no effect
            pass
    return len(norms)


def _is_norm_of_sum(node: ir.Node) -> bool:
    x = node.inputs[0]
    total = find_producer(x, "Add")
    return (
        total is not None
        and _get_sizes(x) is not None
        and all(_get_sizes(operand) == _get_sizes(x) for operand in total.inputs)
        and not total.outputs[0].is_graph_output()
        and node.attributes.get_int("axis", -1) in (-1, 2)
        and len(node.outputs) == 1
    )


def _get_sizes(value: ir.Value | None) -> Sequence[object] | None:
    """Return the shape [batch, L, D] of a value, of which only the batch may be unknown; None for others."""
    sizes = get_dims(value)
    known = sizes is not None and len(sizes) == 3 and all(isinstance(size, int) for size in sizes[1:])
    return [str(sizes[0]), *sizes[1:]] if known and sizes is not None else None


def _replace(graph: ir.Graph, norm: ir.Node) -> None:
    total = find_producer(norm.inputs[0], "Add")
    shape = _get_sizes(norm.inputs[0])
    assert total is not None
    assert shape is not None
    name, result = norm.outputs[0].name, total.outputs[0]
    sizes = add_initializer(graph, f"{name}_places", np.array([-1, *shape[1:]]))
    row_sizes = add_initializer(graph, f"{name}_rows", np.array([-1, shape[2]]))
    new: list[ir.Node] = []
    operands = []
    for operand in total.inputs:
        rows = _find_rows(operand, shape[2])
        if rows is None:
            new.append(ir.node("Reshape", [operand, row_sizes]))
            rows = new[-1].outputs[0]
        operands.append(rows)
    total_of_rows = ir.node("Add", operands)
    norm_of_rows = ir.node("LayerNormalization", [total_of_rows.outputs[0], *norm.inputs[1:]])
    norm_of_rows.attributes.update(norm.attributes)
    norm_of_rows.attributes["axis"] = ir.AttrInt64("axis", -1)
    new += [total_of_rows, norm_of_rows]
    replace_node(graph, norm, [*new, ir.node("Reshape", [norm_of_rows.outputs[0], sizes])])
    if result.uses():  # of a residual
        back = ir.node("Reshape", [total_of_rows.outputs[0], sizes])
        graph.insert_after(total_of_rows, back)
        back.outputs[0].shape, back.outputs[0].type = result.shape, result.type
        replace_uses(result, back.outputs[0])
    graph.remove(total, safe=True)


def _find_rows(value: ir.Value | None, width: object) -> ir.Value | None:
    """Return the value [batch · L, D] of which `value` is a view, or None."""
    view = find_producer(value, "Reshape")
    rows = None if view is None else view.inputs[0]
    sizes = get_dims(rows)
    return rows if get_rank(rows) == 2 and sizes is not None and sizes[1] == width else None
