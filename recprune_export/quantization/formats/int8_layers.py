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
from recprune_export.quantization.formats.arithmetic import choose_activation_range, quantize_with_one_scale
from recprune_export.quantization.formats.stored_rows import store_columns, store_rows
from recprune_export.quantization.quantization_plan import (
    CONTRIB,
    INT4_STORED,
    INT8_DYNAMIC,
    INT8_ONE_SCALE,
    INT8_STATIC,
    INT8_STORED,
)
from recprune_export.stored_bits import count_row_bytes, count_scales

# In int32 sums of products are added to it. An output with tiny weights, such as those of a unit that weight decay has
# reduced to almost zero, has a tiny scale, and its bias may be any number of steps.
_LARGEST_BIAS = 2.0**30


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
    graph: ir.Graph, layer: Linear, activations: ActivationQuantizer, *, one_scale: bool = False
) -> None:
    """Quantize a layer with a scale of its operand chosen on calibration rows; with `one_scale` all outputs share one.

    Before: `Gemm(x, W, b)`, or `MatMul(x, W)` and perhaps `Add(·, b)`. After, in standard operators:
    `x′ = DequantizeLinear(QuantizeLinear(x))`, `Gemm(x′, DequantizeLinear(W₈), DequantizeLinear(b₃₂))`, or with more than
    two axes, or a bias too large for the scales, `Add(MatMul(x′, DequantizeLinear(W₈)), b)`; `use_contrib_kernels` chooses
    the kernels.
    """
    weight, scales, factors, new = (_quantize_with_one_scale if one_scale else _quantize_weight)(graph, layer)
    operand, step = activations.quantize_dequantize(graph, layer.node, layer.operand)
    name = weight.name
    if one_scale:
        zero = add_initializer(graph, f"{name}_zero", np.zeros((), dtype=np.int8))
    else:
        new.append(_make_zeros(graph, layer))
        zero = new[-1].outputs[0]
    widened = ir.node("DequantizeLinear", [weight, scales, zero], attributes={"axis": 1})
    new.append(widened)
    bias = layer.vector()
    integers = None if bias is None else np.rint(bias / (factors * step))
    if get_rank(layer.operand) != 2 or (integers is not None and np.abs(integers).max(initial=0.0) > _LARGEST_BIAS):
        return replace_product(graph, layer, new, operand, widened.outputs[0])
    inputs = [operand, widened.outputs[0]]
    if integers is not None:
        step_value = add_initializer(graph, f"{name}_step", np.asarray(step))
        bias_steps = ir.node("Mul", [scales, step_value])
        bias_inputs = [add_initializer(graph, f"{name}_bias", integers.astype(np.int32)), bias_steps.outputs[0]]
        new += [bias_steps, ir.node("DequantizeLinear", bias_inputs, attributes={"axis": 0})]
        inputs.append(new[-1].outputs[0])
    replace_layer(graph, layer, [*new, ir.node("Gemm", inputs)])


def quantize_static_with_one_scale(graph: ir.Graph, layer: Linear, activations: ActivationQuantizer) -> None:
    """Quantize a layer as `quantize_static` does, with one scale for all outputs.

    QGemm multiplies the scales of all outputs by that of the operand at every request: 5 ns an output.
    """
    quantize_static(graph, layer, activations, one_scale=True)


def quantize_dynamic(graph: ir.Graph, layer: Linear, activations: ActivationQuantizer) -> None:
    """Quantize a layer with a scale of its operand computed from each request: one scale for all its rows.

    After: `DynamicQuantizeLinear`, `MatMulInteger`, and a conversion of the sums to float; ONNX Runtime fuses them into
    one DynamicQuantizeMatMul.
    """
    weight, scales, _, new = _quantize_weight(graph, layer)
    zero = _make_zeros(graph, layer)
    replace_dynamic(graph, layer, [*new, zero], weight, scales, zero.outputs[0])


def store_layer(graph: ir.Graph, layer: Linear, bits: int) -> None:
    """Store W in few bits, with a scale for each output; the product stays one of floats.

    After: the same `Gemm` or `MatMul`, whose W is dequantized from constants. ONNX Runtime does this once, at load, so that a request
    takes the time of fp32, and only the file is smaller.
    """
    rows = np.ascontiguousarray(layer.matrix().T, dtype=np.float32)
    stored = store_rows(graph, layer.weight.name or "", rows, bits)
    new = stored.dequantize(stored.rows, stored.codes)
    if layer.node.op_type == "Gemm":
        operands = [layer.operand, new[-1].outputs[0], *layer.node.inputs[2:]]
        product = ir.node("Gemm", operands, attributes={"transB": 1})
    else:
        new.append(ir.node("Transpose", [new[-1].outputs[0]], attributes={"perm": [1, 0]}))
        product = ir.node("MatMul", [layer.operand, new[-1].outputs[0]])
    replace_node(graph, layer.node, [*new, product])


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
    INT8_STORED: lambda graph, layer, _: store_layer(graph, layer, 8),
    INT4_STORED: lambda graph, layer, _: store_layer(graph, layer, 4),
}


CONTRIB_KERNELS = ("QGemm", "MatMulIntegerToFloat")


def use_contrib_kernels(graph: ir.Graph) -> None:
    """Replace static layers by the com.microsoft kernels that ONNX Runtime would not choose for them.

    Static layers that feed only each other, with or without a ReLU between them, are not changed: ONNX Runtime fuses each into a QGemm
    without floats between them. It would fuse any other layer with the ReLU that follows, in floats, and dequantize the weights in every
    request. Such a layer becomes `QGemm` or `MatMulIntegerToFloat` of com.microsoft.
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


def count_layer_bytes(layer: Linear, bits: int = 8) -> tuple[int, int]:
    """Return the bytes of the weight without bias, in fp32 and in fewer bits with its scales; 7: those of integer products."""
    size, row = layer.inputs * layer.outputs, count_row_bytes(layer.inputs, 8 if bits == 7 else bits)
    return 4 * size, layer.outputs * row + count_scales(layer.outputs, layer.inputs, bits)


def _quantize_weight(graph: ir.Graph, layer: Linear) -> tuple[ir.Value, ir.Value, np.ndarray, list[ir.Node]]:
    """Return W [inputs, outputs] in int8, its scales [outputs] as a value and as an array, and the nodes that compute them.

    7 of the 8 bits are used. CPUs with AVX2 or AVX-512 but without VNNI add pairs of products of uint8 and int8 in 16
    bits; 2 · 255 · 63 fits, 2 · 255 · 127 does not. With 7 bits the sums are exact and the same on every machine.
    """
    return store_columns(graph, layer.weight.name or "", layer.matrix().astype(np.float32), 7)


def _quantize_with_one_scale(graph: ir.Graph, layer: Linear) -> tuple[ir.Value, ir.Value, np.ndarray, list[ir.Node]]:
    """Return W [inputs, outputs] in int8 in 7 bits, its scale [] as a value and as an array, and an empty list of nodes."""
    integers, scale = quantize_with_one_scale(layer.matrix().astype(np.float32))
    name = layer.weight.name
    weight = add_initializer(graph, f"{name}_int8", np.ascontiguousarray(integers))
    return weight, add_initializer(graph, f"{name}_scale", scale), scale, []


def _make_zeros(graph: ir.Graph, layer: Linear) -> ir.Node:
    """Return the node that computes the zero points of W, [outputs] in int8: ONNX Runtime does so at load."""
    shape = add_initializer(graph, f"{layer.weight.name}_outputs", np.array([layer.outputs]))
    return ir.node("ConstantOfShape", [shape], attributes={"value": ir.tensor(np.zeros(1, np.int8))})


def _make_bias_add(graph: ir.Graph, product: ir.Node, bias: np.ndarray | None, name: str) -> list[ir.Node]:
    if bias is None:
        return []
    return [ir.node("Add", [product.outputs[0], add_initializer(graph, name, bias.astype(np.float32))])]


def replace_layer(graph: ir.Graph, layer: Linear, new: list[ir.Node]) -> None:
    """Replace the node that computes y by `new`; the old product becomes unused and is removed with unused nodes."""
    replace_node(graph, layer.shift or layer.node, new)
