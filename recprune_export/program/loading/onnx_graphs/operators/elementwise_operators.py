"""Operators that compute each number of their output from one number of each input."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recprune_export.program.loading.onnx_graphs.onnx_graph import CONTRIB, Node
from recprune_export.program.loading.onnx_graphs.operator_table import OPERATORS, operator
from recprune_export.program.loading.onnx_graphs.values import Value, as_operand, as_tensor, number

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh, "Atan": torch.atan,
    "Atanh": torch.atanh, "BitwiseNot": torch.bitwise_not, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh,
    "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "IsNaN": torch.isnan, "Log": torch.log, "Mish": F.mish,
    "Neg": torch.neg, "Not": torch.logical_not, "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round,
    "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh, "Softplus": F.softplus,
    "Softsign": F.softsign, "Sqrt": torch.sqrt, "Tan": torch.tan, "Tanh": torch.tanh, "HardSwish": F.hardswish,
}  # fmt: skip
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": lambda x, y: x + y,
    "Sub": lambda x, y: x - y,
    "Mul": lambda x, y: x * y,
    "Equal": lambda x, y: x == y,
    "Greater": lambda x, y: x > y,
    "GreaterOrEqual": lambda x, y: x >= y,
    "Less": lambda x, y: x < y,
    "LessOrEqual": lambda x, y: x <= y,
    "BitwiseAnd": lambda x, y: x & y,
    "BitwiseOr": lambda x, y: x | y,
    "BitwiseXor": lambda x, y: x ^ y,
}
# The numbers of `TensorProto.DataType`; bfloat16 is computed in float32, as half precision is.
DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool,
    10: torch.float16, 11: torch.float64, 16: torch.float32,
}  # fmt: skip


def _register_unary(name: str, compute: Callable[[Tensor], Tensor]) -> None:
    OPERATORS["", name] = lambda node, x: compute(as_tensor(x))


def _register_binary(name: str, compute: Callable[[Any, Any], Any]) -> None:
    OPERATORS["", name] = lambda node, x, y: compute(*pair(x, y))


for _name, _unary in _UNARY.items():
    _register_unary(_name, _unary)
for _name, _binary in _BINARY.items():
    _register_binary(_name, _binary)


def pair(left: Value, right: Value) -> tuple[Any, Any]:
    """Return two operands of which at least one is a tensor."""
    if not isinstance(left, Tensor) and not isinstance(right, Tensor):
        return as_tensor(left), as_tensor(right)
    return as_operand(left, right), as_operand(right, left)


@operator("And", "Or", "Xor")
def logical(node: Node, left: Value, right: Value) -> Tensor:
    """`And`, `Or`, `Xor` of booleans."""
    functions = {"And": torch.logical_and, "Or": torch.logical_or, "Xor": torch.logical_xor}
    return functions[node.operator](as_tensor(left), as_tensor(right))


@operator("Div")
def divide(node: Node, left: Value, right: Value) -> Any:
    """`Div`; of whole numbers it is cut off towards zero."""
    x, y = pair(left, right)
    floats = any(isinstance(v, float) or (isinstance(v, Tensor) and v.is_floating_point()) for v in (x, y))
    if floats:
        return x / y
    return torch.div(x if isinstance(x, Tensor) else as_tensor(left), y, rounding_mode="trunc")


@operator("Mod")
def modulo(node: Node, left: Value, right: Value) -> Tensor:
    """`Mod` has the sign of the divisor; with `fmod` that of the dividend."""
    function = torch.fmod if node.get("fmod", 0) else torch.remainder
    x, y = pair(left, right)
    return function(x if isinstance(x, Tensor) else as_tensor(left), y)


@operator("Pow")
def power(node: Node, base: Value, exponent: Value) -> Tensor:
    """`Pow(x, 2)`; the result has the type of the base."""
    x, y = pair(base, exponent)
    result = torch.pow(x, int(y) if isinstance(y, float) and y.is_integer() else y)
    return result if not isinstance(base, Tensor) or result.dtype == base.dtype else result.to(base.dtype)


@operator("Max", "Min", "Sum", "Mean")
def several(node: Node, *values: Value) -> Any:
    """`Max`, `Min`, `Sum` and `Mean` of any number of tensors."""
    functions: dict[str, Callable[[Any, Any], Any]] = {"Max": torch.maximum, "Min": torch.minimum}
    result: Any = values[0]
    for value in values[1:]:
        if node.operator in functions:
            x, y = pair(result, value)
            result = _extreme(node.operator, x, y)
        else:
            x, y = pair(result, value)
            result = x + y
    result = result if isinstance(result, Tensor) else as_tensor(result)
    return result / len(values) if node.operator == "Mean" else result


def _extreme(name: str, left: Any, right: Any) -> Tensor:
    tensor, bound = (left, right) if isinstance(left, Tensor) else (right, left)
    if isinstance(bound, Tensor):
        return torch.maximum(left, right) if name == "Max" else torch.minimum(left, right)
    return torch.clamp(tensor, min=bound) if name == "Max" else torch.clamp(tensor, max=bound)


@operator("Clip")
def clip(node: Node, value: Value, low: Value | None = None, high: Value | None = None) -> Tensor:
    """`Clip(x, 0, 6)`."""
    bounds = [None if bound is None else number(node, bound, "bounds") for bound in (low, high)]
    x = as_tensor(value)
    return x if bounds == [None, None] else torch.clamp(x, bounds[0], bounds[1])


@operator("Where")
def where(node: Node, condition: Value, left: Value, right: Value) -> Tensor:
    """`Where(mask, -inf, scores)`; of a known number it is `masked_fill`."""
    mask = as_tensor(condition)
    x = as_operand(left, condition if not isinstance(right, Tensor) else right)
    y = as_operand(right, condition if not isinstance(left, Tensor) else left)
    if isinstance(x, Tensor) and isinstance(y, Tensor):
        return torch.where(mask, x, y)
    if isinstance(y, Tensor) and _covers(y, mask):
        return y.masked_fill(mask, x)
    if isinstance(x, Tensor) and _covers(x, mask):
        return x.masked_fill(torch.logical_not(mask), y)
    return torch.where(mask, as_tensor(left), as_tensor(right))


def _covers(value: Tensor, mask: Tensor) -> bool:
    """Return whether a value has the shape that it has with a mask of its last axes broadcast to it."""
    skipped = value.ndim - mask.ndim
    return skipped >= 0 and all(
        (isinstance(size, int) and size == 1) or str(size) == str(value.shape[skipped + axis])
        for axis, size in enumerate(mask.shape)
    )


@operator("Cast", "CastLike")
def cast(node: Node, value: Value, like: Value | None = None) -> Tensor:
    """`Cast` to another type of numbers."""
    dtype = DTYPES.get(node.get("to")) if like is None else as_tensor(like).dtype
    if dtype is None:
        raise node.refuse("converts to a type that recommenders do not compute in")
    x = as_tensor(value)
    return x if x.dtype == dtype else x.to(dtype)


@operator("Identity")
def identity(node: Node, value: Value) -> Value:
    """The value itself."""
    return value


@operator("Dropout")
def dropout(node: Node, value: Value, ratio: Value | None = None, training: Value | None = None) -> Any:
    """`Dropout` of a served file is the value itself; its mask is of no use."""
    if training is not None and (isinstance(training, Tensor) or bool(training.reshape(-1)[0])):
        raise node.refuse("drops numbers at random, as in training")
    x = as_tensor(value)
    return (x, torch.ones_like(x, dtype=torch.bool)) if len(node.outputs) > 1 and node.outputs[1] else x


@operator("Elu", "Celu", "Selu", "LeakyRelu", "ThresholdedRelu", "HardSigmoid", "Shrink")
def activation(node: Node, value: Value) -> Tensor:
    """Activations with numbers among their attributes."""
    x, alpha = as_tensor(value), node.get("alpha")
    if node.operator == "Elu":
        return F.elu(x, 1.0 if alpha is None else alpha)
    if node.operator == "Celu":
        return F.celu(x, 1.0 if alpha is None else alpha)
    if node.operator == "LeakyRelu":
        return F.leaky_relu(x, 0.01 if alpha is None else alpha)
    if node.operator == "ThresholdedRelu":
        return F.threshold(x, 1.0 if alpha is None else alpha, 0.0)
    if node.operator == "HardSigmoid":
        return torch.clamp(x * (0.2 if alpha is None else alpha) + node.get("beta", 0.5), 0.0, 1.0)
    if node.operator == "Shrink":
        bias, limit = node.get("bias", 0.0), node.get("lambd", 0.5)
        small = torch.where(x < -limit, x + bias, torch.zeros_like(x))
        return torch.where(x > limit, x - bias, small)
    scale, steepness = node.get("gamma", 1.0507009873554805), node.get("alpha", 1.6732632423543772)
    return scale * (torch.clamp(x, min=0.0) + steepness * (torch.exp(torch.clamp(x, max=0.0)) - 1))


@operator("PRelu")
def prelu(node: Node, value: Value, slope: Value) -> Tensor:
    """`PRelu(x, a)` with a slope for each channel of the last axis, or any that is broadcast."""
    x, a = as_tensor(value), as_tensor(slope)
    return torch.clamp(x, min=0.0) + a * torch.clamp(x, max=0.0)


@operator("Gelu")
@operator("Gelu", "FastGelu", "QuickGelu", domain=CONTRIB)
def gelu(node: Node, value: Value, bias: Value | None = None) -> Tensor:
    """`Gelu`, by the error function or its approximation by tanh."""
    x = as_tensor(value) if bias is None else as_tensor(value) + as_tensor(bias)
    if node.operator == "QuickGelu":
        return x * torch.sigmoid(node.get("alpha", 1.702) * x)
    approximate = "tanh" if node.operator == "FastGelu" else node.get("approximate", "none")
    return F.gelu(x, approximate=approximate)


@operator("BiasGelu", domain=CONTRIB)
def bias_gelu(node: Node, value: Value, bias: Value) -> Tensor:
    """`BiasGelu(x, b)` is `Gelu(x + b)`."""
    return F.gelu(as_tensor(value) + as_tensor(bias))


@operator("Swish")
def swish(node: Node, value: Value) -> Tensor:
    """`Swish(x)` is x·sigmoid(αx)."""
    x, alpha = as_tensor(value), node.get("alpha", 1.0)
    return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(alpha * x)


@operator("IsInf")
def is_infinite(node: Node, value: Value) -> Tensor:
    """`IsInf`, of one sign or both."""
    x = as_tensor(value)
    if not node.get("detect_negative", 1):
        return torch.isposinf(x)
    return torch.isinf(x) if node.get("detect_positive", 1) else torch.isneginf(x)
