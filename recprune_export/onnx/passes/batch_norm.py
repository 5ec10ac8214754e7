"""Batch-norm as a product and a sum."""

import numpy as np
import onnx_ir as ir

_PARAMETERS = 4  # scale, bias, mean, variance


def fold_batch_norm(model: ir.Model) -> None:
    """Replace each batch-norm that the exporter could not fold into the layer before it.

    Before: `BatchNormalization(x; g, b, m, v)` in serving mode, its parameters initializers. After: `x · s + t` with
    s = g / √(v + ε) and t = b - m · s, shaped to broadcast over axis 1.
    """
    for node in list(model.graph):
        if node.op_type == "BatchNormalization" and node.inputs[0] is not None:
            _fold(model.graph, node)


def _fold(graph: ir.Graph, node: ir.Node) -> None:
    x, result = node.inputs[0], node.outputs[0]
    assert x is not None
    constants = [
        value.const_value.numpy() for value in node.inputs[1:] if value is not None and value.const_value is not None
    ]
    if len(constants) != _PARAMETERS or x.shape is None:
        return
    gain, bias, mean, variance = (constant.astype(np.float64) for constant in constants)
    scale = gain / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    shape = (1, -1) + (1,) * (len(x.shape) - 2)
    factors = {"scale": scale, "shift": bias - mean * scale}
    values = [
        _initializer(graph, f"{result.name}_{name}", f.reshape(shape), constants[0].dtype)
        for name, f in factors.items()
    ]
    product = ir.node("Mul", [x, values[0]])
    total = ir.node("Add", [product.outputs[0], values[1]])
    last = total.outputs[0]
    last.name, last.shape, last.type = result.name, result.shape, result.type
    ir.convenience.replace_nodes_and_values(graph, node, [node], [product, total], [result], [last])


def _initializer(graph: ir.Graph, name: str, array: np.ndarray, dtype: np.dtype) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array.astype(dtype), name=name))
    value.shape, value.type = ir.Shape(array.shape), ir.TensorType(ir.DataType.from_numpy(dtype))
    graph.register_initializer(value)
    return value
