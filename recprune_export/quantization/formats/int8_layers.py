"""Linear layers in int8: activations in uint8, weights in int8 with a scale for each output, sums in int32."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import (
    add_initializer,
    find_nodes,
    find_only_consumer,
    find_producer,
    get_rank,
    replace_node,
)
from recprune_export.onnx.optimizer.linear_layers import Linear
from recprune_export.quantization.formats.arithmetic import (
    choose_activation_range,
    quantize_by_output,
    quantize_with_one_scale,
)
from recprune_export.quantization.quantization_plan import CONTRIB, INT8_DYNAMIC, INT8_ONE_SCALE, INT8_STATIC

WeightRounding = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # W [inputs, outputs] to integers and scales


@dataclass
class ActivationQuantizer:
    """Quantizes activations; layers that read the same value share its QuantizeLinear and DequantizeLinear."""

    calibration_values: Mapping[str, np.ndarray]  # the arrays on calibration rows, by the name of the value
    quantized: dict[ir.Value, tuple[ir.Value, np.float32]] = field(default_factory=dict)

    def quantize_dequantize(self, graph: ir.Graph, before: ir.Node, value: ir.Value) -> tuple[ir.Value, np.float32]:
        """Return `value` after rounding to uint8 and back, and its scale; new nodes are inserted before node `before`."""
        if value not in self.quantized:
            scale, zero = choose_activation_range(self.calibration_values[value.name or ""])
            name = f"{value.name}_rounded"
            step, origin = (
                add_initializer(graph, f"{name}_{word}", np.asarray(number))
                for word, number in (("scale", scale), ("zero", zero))
            )
            down = ir.node("QuantizeLinear", [value, step, origin])
            up = ir.node("DequantizeLinear", [down.outputs[0], step, origin])
            up.outputs[0].shape, up.outputs[0].type = value.shape, value.type
            down.outputs[0].shape, down.outputs[0].type = value.shape, ir.TensorType(ir.DataType.UINT8)
            graph.insert_before(before, [down, up])
            self.quantized[value] = up.outputs[0], scale
        return self.quantized[value]


def quantize_static(
    graph: ir.Graph, layer: Linear, activations: ActivationQuantizer, round_weights: WeightRounding = quantize_by_output
) -> None:
    """Quantize a layer with a scale of its operand chosen on calibration rows.

    Before: `Gemm(x, W, b)`, or `MatMul(x, W)` and perhaps `Add(·, b)`. After, in standard operators:
    `x′ = DequantizeLinear(QuantizeLinear(x))`, `Gemm(x′, DequantizeLinear(W₈), DequantizeLinear(b₃₂))`, or with more than
    two axes `Add(MatMul(x′, DequantizeLinear(W₈)), b)`; `use_contrib_kernels` chooses the kernels.
    """
    weight, scales = _quantize_weight(graph, layer, round_weights)
    operand, step = activations.quantize_dequantize(graph, layer.node, layer.operand)
    name = weight.name
    zero = add_initializer(graph, f"{name}_zero", np.zeros(_array(scales).shape, dtype=np.int8))
    widened = ir.node("DequantizeLinear", [weight, scales, zero], attributes={"axis": 1})
    bias = layer.vector()
    if get_rank(layer.operand) != 2:
        return replace_product(graph, layer, [widened], operand, widened.outputs[0])
    inputs, new = [operand, widened.outputs[0]], [widened]
    if bias is not None:
        steps = _array(scales) * step
        integers = np.clip(np.rint(bias / steps), -(2**31) + 1, 2**31 - 1).astype(np.int32)
        bias_inputs = [
            add_initializer(graph, f"{name}_bias", integers),
            add_initializer(graph, f"{name}_bias_scale", steps),
        ]
        new.append(ir.node("DequantizeLinear", bias_inputs, attributes={"axis": 0}))
        inputs.append(new[-1].outputs[0])
    replace_layer(graph, layer, [*new, ir.node("Gemm", inputs)])


def quantize_static_with_one_scale(graph: ir.Graph, layer: Linear, activations: ActivationQuantizer) -> None:
    """Quantize a layer as `quantize_static` does, with one scale for all outputs.

    QGemm multiplies the scales of all outputs by that of the operand at every request: 5 ns an output.
    """
    quantize_static(graph, layer, activations, quantize_with_one_scale)


def quantize_dynamic(graph: ir.Graph, layer: Linear, activations: ActivationQuantizer) -> None:
    """Quantize a layer with a scale of its operand computed from each request: one scale for all its rows.

    After: `DynamicQuantizeLinear`, `MatMulInteger`, and a conversion of the sums to float; ONNX Runtime fuses them into
    one DynamicQuantizeMatMul.
    """
    weight, scales = _quantize_weight(graph, layer)
    zero = add_initializer(graph, f"{weight.name}_zero", np.zeros(layer.outputs, dtype=np.int8))
    replace_dynamic(graph, layer, [], weight, scales, zero)


def replace_dynamic(
    graph: ir.Graph, layer: Linear, new: list[ir.Node], weight: ir.Value, scales: ir.Value, zero: ir.Value | None = None
) -> None:
    """Replace a layer by a dynamic one: `weight` [inputs, outputs] in int8, computed by `new`, and `scales` [outputs]."""
    down = ir.node("DynamicQuantizeLinear", [layer.operand], num_outputs=3)
    integers, step, origin = down.outputs
    product = ir.node("MatMulInteger", [integers, weight, origin, *([] if zero is None else [zero])])
    cast = ir.node("Cast", [product.outputs[0]], attributes={"to": ir.DataType.FLOAT.value})
    steps = ir.node("Mul", [step, scales])
    scaled = ir.node("Mul", [cast.outputs[0], steps.outputs[0]])
    bias = _make_bias_add(graph, scaled, layer.vector(), f"{layer.weight.name}_bias")
    replace_layer(graph, layer, [*new, down, product, cast, steps, scaled, *bias])


def replace_product(graph: ir.Graph, layer: Linear, new: list[ir.Node], operand: ir.Value, weight: ir.Value) -> None:
    """Replace a layer by a product of floats and its bias; the nodes `new` compute its operands."""
    product = ir.node("MatMul", [operand, weight])
    bias = _make_bias_add(graph, product, layer.vector(), f"{layer.weight.name}_bias")
    replace_layer(graph, layer, [*new, product, *bias])


FORMS: Mapping[str, Callable[[ir.Graph, Linear, ActivationQuantizer], None]] = {
    INT8_STATIC: quantize_static,
    INT8_ONE_SCALE: quantize_static_with_one_scale,
    INT8_DYNAMIC: quantize_dynamic,
}


def use_contrib_kernels(graph: ir.Graph) -> None:
    """Replace static layers by the com.microsoft kernels that ONNX Runtime would not choose for them.

    Static layers that feed only each other, with or without a ReLU between them, stay: ONNX Runtime fuses each into a
    QGemm without floats between them. Any other one it would fuse with the ReLU that follows, in floats, and dequantize
    the weights at every request. Such a layer becomes `QGemm` or `MatMulIntegerToFloat` of com.microsoft.
    """
    for node in find_nodes(graph, "Gemm", "MatMul"):
        operand, weight = (find_producer(value, "DequantizeLinear") for value in node.inputs[:2])
        if operand is None or weight is None or _feeds_only_quantize(node.outputs[0]):
            continue
        x, x_scale, x_zero = operand.inputs
        w, w_scale, *w_zero = weight.inputs
        if node.op_type == "Gemm":
            bias = find_producer(node.inputs[2], "DequantizeLinear") if len(node.inputs) > 2 else None
            inputs = [x, x_scale, x_zero, w, w_scale, *w_zero, *([] if bias is None else bias.inputs[:1])]
            new = ir.node("QGemm", inputs, domain=CONTRIB)
        else:
            new = ir.node("MatMulIntegerToFloat", [x, w, x_scale, w_scale, x_zero, *w_zero], domain=CONTRIB)
        replace_node(graph, node, [new])
        graph.opset_imports.setdefault(CONTRIB, 1)


def _feeds_only_quantize(value: ir.Value) -> bool:
    """Return whether only static layers read `value`, directly or after a bias and a ReLU."""
    while (user := find_only_consumer(value)) is not None and user.op_type in ("Add", "Relu"):
        value = user.outputs[0]
    users = [use.node.op_type for use in value.uses()]
    return not value.is_graph_output() and set(users) == {"QuantizeLinear"}


def count_layer_bytes(layer: Linear) -> tuple[int, int]:
    """Return the bytes of the weight without bias, in fp32 and in int8 with its scales."""
    size = layer.inputs * layer.outputs
    return 4 * size, size + 4 * layer.outputs


def _quantize_weight(
    graph: ir.Graph, layer: Linear, round_weights: WeightRounding = quantize_by_output
) -> tuple[ir.Value, ir.Value]:
    """Return W [inputs, outputs] in int8, and its scales [outputs], or []."""
    integers, scales = round_weights(layer.matrix().astype(np.float32))
    weight = add_initializer(graph, f"{layer.weight.name}_int8", np.ascontiguousarray(integers))
    return weight, add_initializer(graph, f"{layer.weight.name}_scales", scales)


def _make_bias_add(graph: ir.Graph, product: ir.Node, bias: np.ndarray | None, name: str) -> list[ir.Node]:
    if bias is None:
        return []
    return [ir.node("Add", [product.outputs[0], add_initializer(graph, name, bias.astype(np.float32))])]


def _array(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    return value.const_value.numpy()


def replace_layer(graph: ir.Graph, layer: Linear, new: list[ir.Node]) -> None:
    """Replace the node that computes y by `new`; the old product becomes unused and is removed with unused nodes."""
    replace_node(graph, layer.shift or layer.node, new)
