"""Linear layers of sequences as products of two axes."""

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.onnx.graph import (
    add_initializer,
    find_nodes,
    find_only_consumer,
    get_constant_array,
    get_dims,
    replace_node,
)
from recprune_export.onnx.optimizer.linear_layers import Linear, match_linear
from recprune_export.onnx.optimizer.passes.eliminate_views import eliminate_views


def matmul_add_to_gemm(model: ir.Model) -> int:
    """Multiply the places of a sequence like rows of a batch, so that bias and ReLU are a part of the product.

    Before: `Add(MatMul(x, W), b)`, and perhaps a Relu, x [batch, …, D] of three axes or more of which only the batch is
    unknown. After: `Reshape(Gemm(Reshape(x, [-1, D]), W, b), [-1, …, O])`, the Relu before the last Reshape, and views of
    views merged. ONNX Runtime 1.32 adds the bias and takes the ReLU while it multiplies only in a Gemm; with more axes
    each is a pass over memory of its own. A Reshape copies nothing.

    Returns the number of layers.
    """
    graph = model.graph
    rows: dict[ir.Value, ir.Value] = {}  # views of operands, which several layers may read
    layers = [layer for node in find_nodes(graph, "MatMul") if (layer := match_linear(node)) and _has_places(layer)]
    for layer in layers:
        _flatten(graph, layer, rows)
    if layers:
        graph.sort()
        fill_shapes(model)
        eliminate_views(model)
    return len(layers)


def _has_places(layer: Linear) -> bool:
    sizes = get_dims(layer.operand)
    known = sizes is not None and len(sizes) > 2 and all(isinstance(size, int) for size in sizes[1:])
    return known and layer.shift is not None


def _flatten(graph: ir.Graph, layer: Linear, rows: dict[ir.Value, ir.Value]) -> None:
    x, name = layer.operand, layer.result.name
    last = layer.shift
    assert last is not None
    new: list[ir.Node] = []
    if x not in rows:
        new.append(ir.node("Reshape", [x, add_initializer(graph, f"{x.name}_rows", np.array([-1, layer.inputs]))]))
        rows[x] = new[0].outputs[0]
    new.append(ir.node("Gemm", [rows[x], layer.weight, _of_one_axis(graph, layer)]))
    user = find_only_consumer(layer.result)
    if user is not None and user.op_type == "Relu":
        new.append(ir.node("Relu", [new[-1].outputs[0]]))
        last = user
    places = [size for size in (get_dims(x) or [])[1:-1] if isinstance(size, int)]
    shape = add_initializer(graph, f"{name}_places", np.array([-1, *places, layer.outputs]))
    replace_node(graph, last, [*new, ir.node("Reshape", [new[-1].outputs[0], shape])])


def _of_one_axis(graph: ir.Graph, layer: Linear) -> ir.Value:
    """The bias as a Gemm takes it: an Add may have had it as [1, 1, O]."""
    bias = layer.bias
    assert bias is not None
    array = get_constant_array(bias)
    assert array is not None
    return bias if array.ndim == 1 else add_initializer(graph, f"{bias.name}_flat", array.reshape(-1))
