"""Quantized weights of an ONNX file: the integer initializers that are weights, and their scales."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

_SCALE_INPUTS = {"DequantizeLinear": (1, 2), "QuantizeLinear": (1, 2), "MatMulInteger": (2, 3), "GatherBlockQuantized": (2, 3),
              "QGemm": (1, 2, 4, 5, 7, 8), "MatMulIntegerToFloat": (2, 3, 4, 5)}  # fmt: skip
_WEIGHT_INPUTS = {"DequantizeLinear": (0,), "MatMulInteger": (1,), "QGemm": (3, 6), "MatMulIntegerToFloat": (1,), "Gather": (0,),
              "GatherND": (0,), "GatherBlockQuantized": (0,)}  # fmt: skip
_INTEGERS = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT32}
_PRODUCTS = {"MatMulInteger", "MatMulIntegerToFloat"}
_UNPACKING = {"Cast", "Sub", "BitwiseAnd", "BitShift", "Concat", "Slice"}


@dataclass(frozen=True)
class RowFormat:
    """How a matrix is stored by row: bits of a number, numbers of a row, the name of the codes of its scales."""

    bits: int
    dimensions: int
    codes: str


def describe_rows(bits: int, dimensions: int, codes: str) -> str:
    """Return the text in a tensor's `doc_string` that describes its storage: its shape counts bytes.

    >>> parse_rows(describe_rows(3, 10, "item_scales"))
    RowFormat(bits=3, dimensions=10, codes='item_scales')
    """
    return f"{bits} bits, {dimensions} numbers a row, scales in {codes}"


def parse_rows(description: str) -> RowFormat | None:
    """Return the format that `describe_rows` stated; None for other strings."""
    match = _ROWS.fullmatch(description)
    return None if match is None else RowFormat(int(match[1]), int(match[2]), match[3])


SCALE_FACTOR = "factor of the scales of rows"  # the `doc_string` of a constant that is not a parameter
_ROWS = re.compile(r"([23478]) bits, (\d+) numbers a row, scales in (.*)", re.DOTALL)


@dataclass(frozen=True)
class QuantizedInitializers:
    """Names of initializers: `weights` with the number of parameters per element, and `scales`, without parameters.

    `rows`: weights that are stored by row, with their formats. `integer_products`: names of values that are integer
    products, as floats.
    """

    weights: Mapping[str, int]
    scales: frozenset[str]
    integer_products: frozenset[str]
    rows: Mapping[str, RowFormat] = field(default_factory=dict)


def find_quantized_initializers(graph: onnx.GraphProto) -> QuantizedInitializers:
    """Find weights that are stored as integers.

    Weights are the operands of a DequantizeLinear and of integer products, and the tables in int8, or with two numbers in
    a byte, that a Cast converts to floats, after a lookup or for all rows. Scales are the other operands of these nodes,
    including zero points, and the factors of such floats. A tensor that states its format (`describe_rows`) is stored by
    row, and its scales are codes.
    """
    rows = {name: parsed for name, parsed in _find_rows(graph).items() if parsed is not None}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    weights: dict[str, int] = {}
    scales: set[str] = set()
    unscaled: set[str] = set()  # values that hold integers of a weight, as integers or floats
    products = {name for node in graph.node if node.op_type in _PRODUCTS for name in node.output}
    for node in graph.node:
        scales.update(node.input[i] for i in _SCALE_INPUTS.get(node.op_type, ()) if i < len(node.input))
        for name in (node.input[i] for i in _WEIGHT_INPUTS.get(node.op_type, ()) if i < len(node.input)):
            tensor = tensors.get(name)
            if tensor is not None and tensor.data_type in _INTEGERS and _is_weight(node, tensor):
                is_packed = node.op_type.startswith("Gather") and tensor.data_type == onnx.TensorProto.UINT8
                weights[name] = 2 if is_packed else 1  # two numbers of an int4 table in a byte
                unscaled.update((name, *node.output))
        if node.op_type in _UNPACKING and unscaled.intersection(node.input):
            unscaled.update(node.output)
        if node.op_type in ("Cast", "Mul") and products.intersection(node.input):
            products.update(node.output)
        if node.op_type == "Mul" and unscaled.intersection(node.input):
            for name in set(node.input) - unscaled:
                scales.update(_find_scale_initializers(name, tensors, producers))
    codes = {parsed.codes for parsed in rows.values()} | {
        t.name for t in graph.initializer if t.doc_string == SCALE_FACTOR
    }
    weights = {name: count for name, count in weights.items() if name not in codes | rows.keys()}
    return QuantizedInitializers(weights, frozenset((scales | codes) & tensors.keys()), frozenset(products), rows)


def _find_rows(graph: onnx.GraphProto) -> dict[str, RowFormat | None]:
    return {tensor.name: parse_rows(tensor.doc_string) for tensor in graph.initializer if tensor.doc_string}


def _is_weight(node: onnx.NodeProto, tensor: onnx.TensorProto) -> bool:
    """Return whether a tensor is a weight: a Gather also reads remaps of ids, but tables have two axes and 8 bits."""
    is_table = len(tensor.dims) > 1 and tensor.data_type != onnx.TensorProto.INT32
    return is_table if node.op_type.startswith("Gather") else True


def _find_scale_initializers(
    name: str, tensors: Mapping[str, onnx.TensorProto], producers: Mapping[str, onnx.NodeProto]
) -> set[str]:
    """Return the scales from which a factor is computed: directly, by a lookup, or times the scale of an activation."""
    if name in tensors:
        return {name}
    node = producers.get(name)
    if node is None or node.op_type not in ("Gather", "GatherND", "Cast", "Mul"):
        return set()
    operands = node.input[:1] if node.op_type.startswith("Gather") else node.input
    return set().union(*(_find_scale_initializers(operand, tensors, producers) for operand in operands))
