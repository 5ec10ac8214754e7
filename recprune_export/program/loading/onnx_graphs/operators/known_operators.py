"""Operators on known values: the arithmetic of sizes, by which exporters compute shapes (`values.py`)."""

import functools
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recprune_export.program.loading.onnx_graphs.onnx_graph import Node
from recprune_export.program.loading.onnx_graphs.operator_table import known_operator
from recprune_export.program.loading.onnx_graphs.operator_table import operator as tensor_operator
from recprune_export.program.loading.onnx_graphs.values import Known, Value, check_size, known, read_axes, whole_numbers

_DTYPES = {1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_,
           10: np.float16, 11: np.float64, 12: np.uint32, 13: np.uint64}  # fmt: skip
# By name: the function of NumPy, and that of two symbolic sizes.
_REDUCTIONS: dict[str, tuple[Any, Any]] = {
    "ReduceProd": (np.prod, operator.mul), "ReduceSum": (np.sum, operator.add), "ReduceMin": (np.min, torch.sym_min),
    "ReduceMax": (np.max, torch.sym_max),
}  # fmt: skip
_EXTREMES: dict[str, tuple[Any, Any]] = {"Min": (torch.sym_min, np.minimum), "Max": (torch.sym_max, np.maximum)}


def _pairwise(compute: Any, left: Known, right: Known) -> Known:
    if object in (left.dtype, right.dtype):
        return known(np.frompyfunc(compute, 2, 1)(left.astype(object), right.astype(object)))
    return np.asarray(compute(left, right))


@tensor_operator("Shape")
def shape(node: Node, value: Value) -> Known:
    """`Shape(x: B×D)` is [B, D], of which B is a symbol."""
    sizes = list(value.shape)
    return known(sizes[slice(node.get("start", 0), node.get("end"))])


@tensor_operator("Size")
def size(node: Node, value: Value) -> Known:
    """`Size(x: B×D)` is B·D."""
    return known(value.numel() if isinstance(value, Tensor) else value.size)


@known_operator("Add", "Sub", "Mul", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or")
def binary(node: Node, left: Known, right: Known) -> Known:
    """Sums, products and comparisons of sizes."""
    functions = {
        "Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Equal": operator.eq, "Greater": operator.gt,
        "GreaterOrEqual": operator.ge, "Less": operator.lt, "LessOrEqual": operator.le, "And": operator.and_, "Or": operator.or_,
    }  # fmt: skip
    compares = node.operator not in ("Add", "Sub", "Mul")
    result = _pairwise(functions[node.operator], left, right)
    return np.vectorize(bool, otypes=[bool])(result) if compares else result


@known_operator("Div")
def divide(node: Node, left: Known, right: Known) -> Known:
    """`Div` of whole numbers is cut off towards zero; sizes are not negative."""
    if left.dtype.kind == "f":
        with np.errstate(all="ignore"):
            return np.asarray(left / right)
    if left.dtype != object and (right == 0).any():
        raise node.refuse("divides a whole number by zero")
    if object in (left.dtype, right.dtype):
        return _pairwise(operator.floordiv, left, right)
    return np.asarray(np.sign(left) * np.sign(right) * (np.abs(left) // np.abs(right))).astype(left.dtype)


@known_operator("Mod")
def modulo(node: Node, left: Known, right: Known) -> Known:
    """`Mod` has the sign of the divisor, as in Python; with `fmod` that of the dividend."""
    return np.fmod(left, right) if node.get("fmod", 0) else _pairwise(operator.mod, left, right)


@known_operator("Min", "Max")
def extreme(node: Node, *values: Known) -> Known:
    """The least or the largest of several sizes."""
    symbolic, numeric = _EXTREMES[node.operator]
    result = values[0]
    for value in values[1:]:
        exact = object not in (result.dtype, value.dtype)
        result = np.asarray(numeric(result, value)) if exact else _pairwise(symbolic, result, value)
    return result


@known_operator("Not")
def negate(node: Node, value: Known) -> Known:
    """`Not` of booleans."""
    return ~value.astype(bool)


@known_operator("Neg")
def minus(node: Node, value: Known) -> Known:
    """`Neg` of numbers."""
    return -value


@known_operator("Where")
def where(node: Node, condition: Known, left: Known, right: Known) -> Known:
    """`Where(shape == -1, ones, shape)`, as `expand` is exported."""
    chosen = np.where(condition.astype(bool), left, right)
    return known(chosen) if chosen.dtype == object else chosen


@known_operator("Cast", "CastLike")
def cast(node: Node, value: Known, like: Known | None = None) -> Known | None:
    """`Cast` between types of whole numbers keeps a size; one to floats makes a tensor of it."""
    dtype = np.dtype(_DTYPES.get(node.get("to"), np.object_)) if like is None else like.dtype
    if dtype.kind == "O":
        return None
    if value.dtype == object:
        return value if dtype.kind in "iu" else None
    with np.errstate(all="ignore"):
        return value.astype(dtype)


@known_operator("Identity", "Dropout")
def identity(node: Node, value: Known, *rest: Known) -> Known:
    """The value itself."""
    return value


@known_operator("Gather")
def gather(node: Node, value: Known, positions: Known) -> Known:
    """`Gather(Shape(x), 0)` is the batch."""
    axis = node.get("axis", 0)
    wanted = np.array(whole_numbers(node, positions, "positions"), dtype=np.int64).reshape(positions.shape)
    if not value.ndim or (wanted >= value.shape[axis]).any() or (wanted < -value.shape[axis]).any():
        raise node.refuse("reads a position that its constant does not have")
    return _tidy(np.asarray(value.take(wanted, axis=axis)))


@known_operator("Concat")
def concat(node: Node, *values: Known) -> Known:
    """`Concat` of sizes and constants to a shape."""
    check_size(node, [sum(value.size for value in values)])
    if any(value.dtype == object for value in values):
        values = tuple(value.astype(object) for value in values)
    return _tidy(np.concatenate(values, axis=node.get("axis", 0)))


@known_operator("Slice")
def slice_known(
    node: Node, value: Known, starts: Known, ends: Known, axes: Known | None = None, steps: Known | None = None
) -> Known:
    """`Slice(Shape(x), 0, 1)` is [batch]."""
    begins, stops = whole_numbers(node, starts, "starts"), whole_numbers(node, ends, "ends")
    along = whole_numbers(node, axes, "axes") if axes is not None else list(range(len(begins)))
    strides = whole_numbers(node, steps, "steps") if steps is not None else [1] * len(begins)
    index: list[Any] = [slice(None)] * value.ndim
    for axis, begin, stop, stride in zip(along, begins, stops, strides, strict=True):
        # A start and an end below -n stand for the ends of the axis, which NumPy does not read so with a negative step.
        low = None if stride < 0 and begin >= value.shape[axis] else begin
        high = None if stride < 0 and stop < -value.shape[axis] else stop
        index[axis] = slice(low, high, stride)
    return _tidy(value[tuple(index)])


@known_operator("Squeeze")
def squeeze(node: Node, value: Known, axes: Known | None = None) -> Known:
    """`Squeeze([batch])` is the batch."""
    given = read_axes(node, axes)
    return value.squeeze() if given is None else value.squeeze(tuple(given))


@known_operator("Unsqueeze")
def unsqueeze(node: Node, value: Known, axes: Known | None = None) -> Known:
    """`Unsqueeze(batch, 0)` is [batch]."""
    return np.expand_dims(value, tuple(read_axes(node, axes) or ()))


@known_operator("Reshape")
def reshape(node: Node, value: Known, sizes: Known) -> Known:
    """`Reshape(sizes, [-1])`."""
    wanted = whole_numbers(node, sizes, "shape")
    return value.reshape(
        [value.shape[i] if n == 0 and not node.get("allowzero", 0) else n for i, n in enumerate(wanted)]
    )


@known_operator("Transpose")
def transpose(node: Node, value: Known) -> Known:
    """`Transpose` of constants, such as paddings of each axis."""
    return value.transpose(node.get("perm"))


@known_operator("ReduceProd", "ReduceSum", "ReduceMin", "ReduceMax")
def reduce(node: Node, value: Known, axes: Known | None = None) -> Known | None:
    """`ReduceProd(Shape(x))` is the number of elements."""
    given, keep = read_axes(node, axes), bool(node.get("keepdims", 1))
    exact, symbolic = _REDUCTIONS[node.operator]
    if not given and node.get("noop_with_empty_axes", 0):
        return value
    if value.dtype != object:
        along = tuple(given or range(value.ndim))
        return np.asarray(exact(value, axis=along, keepdims=keep)).astype(value.dtype)
    if value.ndim > 1 or given not in (None, [], [0], [-1]):
        return None
    result = functools.reduce(symbolic, value.flat)
    return known([result] if keep and value.ndim else result)


@known_operator("Sqrt", "Reciprocal", "Floor", "Ceil", "Abs")
def unary(node: Node, value: Known) -> Known | None:
    """`Sqrt` of a width, by which attention divides its scores."""
    functions = {"Sqrt": np.sqrt, "Reciprocal": np.reciprocal, "Floor": np.floor, "Ceil": np.ceil, "Abs": np.abs}
    return None if value.dtype == object else np.asarray(functions[node.operator](value))


@known_operator("ConstantOfShape")
def constant_of_shape(node: Node, sizes: Known) -> Known | None:
    """`ConstantOfShape([3])` is [0, 0, 0] of a known number of entries; other shapes make a tensor."""
    wanted = whole_numbers(node, sizes, "shape")
    check_size(node, wanted)
    if sizes.dtype == object:
        return None
    value = node.get("value")
    fill = np.zeros(1, np.float32) if value is None else value
    return np.full(wanted, fill.reshape(-1)[0], dtype=fill.dtype)


@known_operator("Expand")
def expand(node: Node, value: Known, sizes: Known) -> Known | None:
    """`Expand([1], [3])` of known numbers."""
    wanted = whole_numbers(node, sizes, "shape")
    check_size(node, [*wanted, value.size])
    if sizes.dtype == object:
        return None
    return np.broadcast_to(value, np.broadcast_shapes(value.shape, tuple(wanted))).copy()


@known_operator("Split")
def split(node: Node, value: Known, sizes: Known | None = None) -> tuple[Known, ...] | None:
    """`Split` of a shape into its sizes."""
    axis, parts = node.get("axis", 0), node.get("split") or whole_numbers(node, sizes, "sizes")
    if not parts:
        count, total = len(node.outputs), value.shape[axis]
        most = -(-total // count)
        parts = [min(most, total - most * number) for number in range(count)]
    return tuple(_tidy(part) for part in np.split(value, np.cumsum(parts)[:-1], axis=axis))


def _tidy(value: Known) -> Known:
    """Return an array of objects without symbols as whole numbers."""
    return known(value) if value.dtype == object else value
