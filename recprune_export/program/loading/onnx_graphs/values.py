"""Values of a graph while it is run: tensors, and numbers that do not depend on the values of a request.

A *known* value is an array of NumPy: a constant of the file, or numbers computed from constants and from the sizes of the
request. Sizes may be symbols of `torch.export`, which arrays of objects hold. Operators on known values are computed at once,
so that `Reshape` and `Slice` get whole numbers, as PyTorch's operators take them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recprune_export.program.loading.onnx_graphs.onnx_graph import Node

Known = np.ndarray
Value = Tensor | np.ndarray
Whole = Any  # an int, or a symbolic size
MOST_ELEMENTS = 1 << 27  # of a tensor that a graph computes from constants


def known(values: Any) -> Known:
    """Return whole numbers as a known value: int64, or objects where one is symbolic.

    >>> known([2, 3]).dtype, known([True]).dtype
    (dtype('int64'), dtype('bool'))
    """
    array = np.array(values, dtype=object)
    if all(type(entry) is bool or isinstance(entry, np.bool_) for entry in array.flat) and array.size:
        return array.astype(bool)
    return array if any(is_symbolic(entry) for entry in array.flat) else array.astype(np.int64)


def is_symbolic(entry: Any) -> bool:
    """Return whether a number is a size that varies with the request."""
    return isinstance(entry, torch.SymInt | torch.SymFloat | torch.SymBool)


def as_tensor(value: Value) -> Tensor:
    """Return a value as a tensor, for operators that take nothing else."""
    if isinstance(value, Tensor):
        return value
    if value.dtype == object:
        numbers = [torch.scalar_tensor(entry, dtype=torch.int64) for entry in value.flat]
        return torch.stack(numbers).reshape(value.shape) if value.ndim else numbers[0]
    return torch.from_numpy(np.array(value))  # a copy: a constant may be mapped from the file, and read alone


def as_operand(value: Value, other: Value | None) -> Any:
    """Return a value for an elementwise operator: a known single number as a number of Python, others as tensors."""
    if isinstance(value, Tensor):
        return value
    axes = other.ndim if other is not None else -1
    if value.size == 1 and value.ndim <= axes:
        entry = value.reshape(-1)[0]
        return entry.item() if isinstance(entry, np.generic) else entry
    return as_tensor(value)


def whole_numbers(node: Node, value: Value | None, what: str) -> list[Whole]:
    """Return the entries of a vector of sizes, positions or axes, flattened.

    Raises `CaptureError` where they depend on the values of a request.
    """
    if value is None:
        return []
    if isinstance(value, Tensor):
        raise node.refuse(f"takes its {what} from the values of the request, not from its sizes")
    return [entry if is_symbolic(entry) else int(entry) for entry in np.asarray(value).flat]


def whole_number(node: Node, value: Value, what: str) -> Whole:
    """Return the single entry of a value of one element, as `whole_numbers` does."""
    return whole_numbers(node, value, what)[0]


def number(node: Node, value: Value, what: str) -> float:
    """Return a single known number. Raises `CaptureError` where it depends on the request or on a trained weight."""
    if isinstance(value, Tensor):
        raise node.refuse(f"takes its {what} from the values of the request or from a weight")
    return np.asarray(value).reshape(-1)[0].item()


def read_axes(node: Node, value: Value | None) -> list[int] | None:
    """Return the axes of an operator that older operator sets give as an attribute, and newer ones as an input."""
    axes = node.get("axes") if value is None else whole_numbers(node, value, "axes")
    return None if axes is None else list(axes)


def check_size(node: Node, sizes: Sequence[Whole]) -> None:
    """Raise `CaptureError` for a tensor of more elements than any constant of a recommender has."""
    elements = 1
    for size in sizes:
        elements *= 1 if is_symbolic(size) else int(size)
    if elements > MOST_ELEMENTS:
        raise node.refuse(f"makes a tensor of {elements:,} elements")
