"""Batch normalization as a product and a sum."""

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import add_initializer, find_nodes, get_constant_array, replace_node


def batch_norm_to_mul_add(model: ir.Model) -> None:
    """Replace each batch normalization that the exporter could not fold into the layer before it.

    Before: `BatchNormalization(x; g, b, m, v)` in serving mode, its parameters initializers. After: `x · s + t` with
    s = g / √(v + ε) and t = b - m · s, shaped to broadcast over axis 1.
    """
    for node in find_nodes(model.graph, "BatchNormalization"):
        if node.inputs[0] is not None:
            _fold(model.graph, node)


def _fold(graph: ir.Graph, node: ir.Node) -> None:
    x, result = node.inputs[0], node.outputs[0]
    assert x is not None
    constants = [array for value in node.inputs[1:] if (array := get_constant_array(value)) is not None]
    if len(constants) != 4 or x.shape is None:
        return
    gain, bias, mean, variance = (array.astype(np.float64) for array in constants)
    scale = gain / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    shape = (1, -1) + (1,) * (len(x.shape) - 2)
    factors = {"scale": scale, "shift": bias - mean * scale}
    values = [
        add_initializer(graph, f"{result.name}_{name}", factor.reshape(shape).astype(constants[0].dtype))
        for name, factor in factors.items()
    ]
    product = ir.node("Mul", [x, values[0]])
    total = ir.node("Add", [product.outputs[0], values[1]])
    replace_node(graph, node, [product, total])
