"""Sequences of tensors, as which exporters write `unbind`, `chunk` and lists: lists of values here."""

from typing import Any

import torch
from torch import Tensor

from recprune_export.program.loading.onnx_graphs.onnx_graph import Node
from recprune_export.program.loading.onnx_graphs.operator_table import operator
from recprune_export.program.loading.onnx_graphs.values import (
    Value,
    as_tensor,
    is_symbolic,
    known,
    whole_number,
    whole_numbers,
)


@operator("SplitToSequence")
def split_to_sequence(node: Node, value: Value, sizes: Value | None = None) -> list[Tensor]:
    """`SplitToSequence` into parts of one or of given sizes; without sizes into single positions."""
    x, axis = as_tensor(value), node.get("axis", 0)
    if is_symbolic(x.shape[axis]):
        raise node.refuse("divides the batch into parts")
    if sizes is None:
        return list(x.unbind(axis)) if not node.get("keepdims", 1) else list(x.split(1, axis))
    parts = whole_numbers(node, sizes, "sizes")
    return list(x.split(parts if not isinstance(sizes, Tensor) and sizes.ndim else parts[0], axis))


@operator("SequenceConstruct")
def construct(node: Node, *values: Value) -> list[Value]:
    """`SequenceConstruct` of values."""
    return list(values)


@operator("SequenceAt")
def take(node: Node, values: list[Value], position: Value) -> Value:
    """`SequenceAt(values, 2)`."""
    place = whole_number(node, position, "position")
    if not -len(values) <= place < len(values):
        raise node.refuse("reads a position that its sequence does not have")
    return values[place]


@operator("SequenceLength")
def length(node: Node, values: list[Value]) -> Any:
    """`SequenceLength(values)`."""
    return known(len(values))


@operator("ConcatFromSequence")
def concat(node: Node, values: list[Value]) -> Tensor:
    """`ConcatFromSequence`, along an axis that is there, or along a new one."""
    join = torch.stack if node.get("new_axis", 0) else torch.cat
    return join([as_tensor(value) for value in values], node.get("axis"))
