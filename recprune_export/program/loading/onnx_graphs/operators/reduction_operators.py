"""Operators that reduce an axis, and those that compute along one: softmax, sums so far, orders."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recprune_export.program.loading.onnx_graphs.onnx_graph import Node
from recprune_export.program.loading.onnx_graphs.operator_table import operator
from recprune_export.program.loading.onnx_graphs.values import Value, as_tensor, read_axes, whole_number

_REDUCTIONS: dict[str, Callable[[Tensor, list[int], bool], Tensor]] = {
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keepdim=keep),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keepdim=keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keepdim=keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keepdim=keep),
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keepdim=keep),
    "ReduceL2": lambda x, axes, keep: torch.sqrt((x * x).sum(axes, keepdim=keep)),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axes, keepdim=keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keepdim=keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep),
}
_FROM_AXES_ON = 13  # the operator set from which on softmax goes over one axis; before, over all axes from `axis` on


@operator(*_REDUCTIONS, "ReduceProd")
def reduce(node: Node, value: Value, axes: Value | None = None) -> Tensor:
    """`ReduceSum(x, axes)` and the like; without axes over all of them."""
    x, given, keep = as_tensor(value), read_axes(node, axes), bool(node.get("keepdims", 1))
    if not given:
        if node.get("noop_with_empty_axes", 0):
            return x
        given = list(range(x.ndim))
    if node.operator == "ReduceProd":
        for axis in sorted((axis % x.ndim for axis in given), reverse=True):
            x = x.prod(axis, keepdim=keep)
        return x
    result = _REDUCTIONS[node.operator](x, given, keep)
    return result.to(x.dtype) if node.operator == "ReduceSum" and result.dtype != x.dtype else result


@operator("Softmax", "LogSoftmax")
def softmax(node: Node, value: Value) -> Tensor:
    """`Softmax` along an axis; before operator set 13 over all axes from `axis` on together."""
    x = as_tensor(value)
    function = torch.softmax if node.operator == "Softmax" else torch.log_softmax
    if node.opset >= _FROM_AXES_ON:
        return function(x, node.get("axis", -1))
    axis = node.get("axis", 1) % x.ndim
    if axis == x.ndim - 1:
        return function(x, axis)
    return function(x.flatten(axis), -1).reshape(x.shape)


@operator("ArgMax", "ArgMin")
def position_of_extreme(node: Node, value: Value) -> Tensor:
    """`ArgMax` and `ArgMin` along an axis: the first position."""
    if node.get("select_last_index", 0):
        raise node.refuse("takes the last of equal numbers")
    function = torch.argmax if node.operator == "ArgMax" else torch.argmin
    return function(as_tensor(value), node.get("axis", 0), bool(node.get("keepdims", 1)))


@operator("TopK")
def top_k(node: Node, value: Value, count: Value) -> tuple[Tensor, Tensor]:
    """`TopK(x, k)`: the k largest or smallest along an axis, and their positions."""
    values, positions = torch.topk(
        as_tensor(value), whole_number(node, count, "number"), node.get("axis", -1), bool(node.get("largest", 1)), True
    )
    return values, positions


@operator("CumSum")
def cumulated(node: Node, value: Value, axis: Value) -> Tensor:
    """`CumSum` along an axis, from either end, with or without the number itself."""
    x, along = as_tensor(value), whole_number(node, axis, "axis")
    turned = x.flip(along) if node.get("reverse", 0) else x
    sums = turned.cumsum(along)
    if node.get("exclusive", 0):
        sums = sums - turned
    sums = sums.flip(along) if node.get("reverse", 0) else sums
    return sums if sums.dtype == x.dtype else sums.to(x.dtype)


@operator("Hardmax")
def hardmax(node: Node, value: Value) -> Any:
    """`Hardmax` is 1 at the first maximum along an axis, and 0 elsewhere."""
    x = as_tensor(value)
    if node.opset < _FROM_AXES_ON:
        raise node.refuse("goes over several axes, as before operator set 13")
    axis = node.get("axis", -1) % x.ndim
    best = torch.argmax(x, axis, keepdim=True)
    places = torch.arange(x.shape[axis]).reshape([-1, *[1] * (x.ndim - axis - 1)])
    return (best == places).to(x.dtype)
