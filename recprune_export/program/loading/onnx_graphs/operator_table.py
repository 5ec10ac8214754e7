"""The table of ONNX operators: one function for each, registered under its name.

A function takes the node and its inputs, `None` for one that is not given, and returns the output, or a tuple of several. It
computes with PyTorch's operators, which `torch.export` records.
"""

from collections.abc import Callable
from typing import Any

from recprune_export.errors import CaptureError
from recprune_export.program.loading.onnx_graphs.onnx_graph import STANDARD, Node

Function = Callable[..., Any]

_QUANTIZED = frozenset(
    {
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "QGemm", "QAttention",
        "QEmbedLayerNormalization", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulIntegerToFloat", "MatMulNBits",
        "GatherBlockQuantized",
    }
)  # fmt: skip
_TRADITIONAL = "ai.onnx.ml"

OPERATORS: dict[tuple[str, str], Function] = {}
KNOWN_OPERATORS: dict[str, Function] = {}


def operator(*names: str, domain: str = STANDARD) -> Callable[[Function], Function]:
    """Register a function for operators on tensors."""

    def register(function: Function) -> Function:
        for name in names:
            OPERATORS[domain, name] = function
        return function

    return register


def known_operator(*names: str) -> Callable[[Function], Function]:
    """Register a function for operators of which all inputs are known, sizes among them (`values.py`)."""

    def register(function: Function) -> Function:
        for name in names:
            KNOWN_OPERATORS[name] = function
        return function

    return register


def find_operator(node: Node) -> Function:
    """Return the function of a node. Raises `CaptureError` for an operator that the table lacks."""
    function = OPERATORS.get((node.domain, node.operator))
    if function is None and (node.operator.startswith("QLinear") or node.operator in _QUANTIZED):
        raise CaptureError(
            f"The ONNX file is quantized already, by the operator {node.describe()}: give the float32 file from which it was made; "
            "--quantize int8 makes its weights smaller."
        )
    if function is None and node.domain == _TRADITIONAL:
        raise CaptureError(
            f"The ONNX operator {node.describe()} is of a model of trees, or another one that is no neural network, as skl2onnx writes it: "
            "it has no channels to remove; give a neural network."
        )
    if function is None:
        raise node.refuse("is not one that recprune-export reads")
    return function
