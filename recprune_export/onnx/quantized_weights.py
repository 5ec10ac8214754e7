"""Which integers of an ONNX file are weights, and which numbers are only the scales that belong to them."""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx

_NIBBLES = 2  # numbers in a byte of a table in int4
_SCALES_OF = {"DequantizeLinear": (1, 2), "QuantizeLinear": (1, 2), "MatMulInteger": (2, 3), "GatherBlockQuantized": (2, 3),
              "QGemm": (1, 2, 4, 5, 7, 8), "MatMulIntegerToFloat": (2, 3, 4, 5)}  # fmt: skip
_WEIGHT_OF = {"DequantizeLinear": (0,), "MatMulInteger": (1,), "QGemm": (3, 6), "MatMulIntegerToFloat": (1,), "Gather": (0,),
              "GatherND": (0,), "GatherBlockQuantized": (0,)}  # fmt: skip
_INTEGERS = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32}
_PRODUCTS = {"MatMulInteger", "MatMulIntegerToFloat"}
_THROUGH = {"Cast", "Sub", "BitwiseAnd", "BitShift", "Concat", "Slice"}


@dataclass(frozen=True)
class QuantizedInitializers:
    """Names of initializers: `weights` with how many parameters each element holds, and `scales`, which hold none.

    `integer_products`: names of values that are products of integers, as floats.
    """

    weights: Mapping[str, int]
    scales: frozenset[str]
    integer_products: frozenset[str]


def find_quantized_initializers(graph: onnx.GraphProto) -> QuantizedInitializers:
    """Find weights that are stored as integers.

    They are what a DequantizeLinear widens, what a product of integers multiplies, and the tables of int8 or of two numbers in
    a byte of which a Cast makes floats after a lookup, or of all rows. Scales are their other operands, zero points too, and what is
    multiplied with such floats.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    weights: dict[str, int] = {}
    scales: set[str] = set()
    stored: set[str] = set()  # values that are integers of a weight, or the same as floats
    products = {name for node in graph.node if node.op_type in _PRODUCTS for name in node.output}
    for node in graph.node:
        scales.update(node.input[i] for i in _SCALES_OF.get(node.op_type, ()) if i < len(node.input))
        for name in (node.input[i] for i in _WEIGHT_OF.get(node.op_type, ()) if i < len(node.input)):
            tensor = tensors.get(name)
            if tensor is not None and tensor.data_type in _INTEGERS and _is_weight(node, tensor):
                halves = node.op_type.startswith("Gather") and tensor.data_type == onnx.TensorProto.UINT8
                weights[name] = _NIBBLES if halves else 1
                stored.update((name, *node.output))
        if node.op_type in _THROUGH and stored.intersection(node.input):
            stored.update(node.output)
        if node.op_type in ("Cast", "Mul") and products.intersection(node.input):
            products.update(node.output)
        if node.op_type == "Mul" and stored.intersection(node.input):
            for name in set(node.input) - stored:
                scales.update(_initializers(name, tensors, makers))
    return QuantizedInitializers(weights, frozenset(scales & tensors.keys()), frozenset(products))


def _is_weight(node: onnx.NodeProto, tensor: onnx.TensorProto) -> bool:
    """A list of rows is looked up as well: a remap of ids. Tables have two axes and at most 8 bits."""
    table = len(tensor.dims) > 1 and tensor.data_type != onnx.TensorProto.INT32
    return table if node.op_type.startswith("Gather") else True


def _initializers(name: str, tensors: Mapping[str, onnx.TensorProto], makers: Mapping[str, onnx.NodeProto]) -> set[str]:
    """The scales behind a factor: themselves, looked up, or a step of the request times those of a weight."""
    if name in tensors:
        return {name}
    node = makers.get(name)
    if node is None or node.op_type not in ("Gather", "GatherND", "Cast", "Mul"):
        return set()
    operands = node.input[:1] if node.op_type.startswith("Gather") else node.input
    return set().union(*(_initializers(each, tensors, makers) for each in operands))
