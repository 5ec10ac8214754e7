"""Linear layers on sequences as Gemm."""

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
    """Multiply the positions of a sequence as rows of a batch, so that bias and ReLU are fused into the product.

    Before: `Add(MatMul(x, W), b)`, and perhaps a Relu, x [batch, …, D] of three axes or more of which only the batch is
    unknown. After: `Reshape(Gemm(Reshape(x, [-1, D]), W, b), [-1, …, O])`, the Relu before the last Reshape, and views of
    views merged. ONNX Runtime 1.32 fuses bias and ReLU only into a Gemm; with more axes each is a separate pass over
    memory. A Reshape copies nothing.

    Returns the number of changed layers.
    """
    graph = model.graph
    flat_operands: dict[ir.Value, ir.Value] = {}  # views of operands, which several layers may read
    layers = [
        layer for node in find_nodes(graph, "MatMul") if (layer := match_linear(node)) and _has_static_sequence(layer)
    ]
    for layer in layers:
        _flatten(graph, layer, flat_operands)
    if layers:
        graph.sort()
        fill_shapes(model)
        eliminate_views(model)
    return len(layers)


def _has_static_sequence(layer: Linear) -> bool:
    sizes = get_dims(layer.operand)
    known = sizes is not None and len(sizes) > 2 and all(isinstance(size, int) for size in sizes[1:])
    return known and layer.shift is not None


def _flatten(graph: ir.Graph, layer: Linear, flat_operands: dict[ir.Value, ir.Value]) -> None:
    x, name = layer.operand, layer.result.name
    last = layer.shift
    assert last is not None
    new: list[ir.Node] = []
    if x not in flat_operands:
        new.append(ir.node("Reshape", [x, add_initializer(graph, f"{x.name}_rows", np.array([-1, layer.inputs]))]))
        flat_operands[x] = new[0].outputs[0]
    new.append(ir.node("Gemm", [flat_operands[x], layer.weight, _flatten_bias(graph, layer)]))
    consumer = find_only_consumer(layer.result)
    if consumer is not None and consumer.op_type == "Relu":
        new.append(ir.node("Relu", [new[-1].outputs[0]]))
        last = consumer
    inner_sizes = [size for size in (get_dims(x) or [])[1:-1] if isinstance(size, int)]
    shape = add_initializer(graph, f"{name}_places", np.array([-1, *inner_sizes, layer.outputs]))
    replace_node(graph, last, [*new, ir.node("Reshape", [new[-1].outputs[0], shape])])


def _flatten_bias(graph: ir.Graph, layer: Linear) -> ir.Value:
    """Return the bias with one axis, as required by Gemm: that of an Add may be [1, 1, O]."""
    bias = layer.bias
    assert bias is not None
    array = get_constant_array(bias)
    assert array is not None
    return bias if array.ndim == 1 else add_initializer(graph, f"{bias.name}_flat", array.reshape(-1))
