"""Products of matrices, layers, and convolutions."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recprune_export.program.loading.onnx_graphs.linear_nodes import LINEAR
from recprune_export.program.loading.onnx_graphs.onnx_graph import CONTRIB, Node
from recprune_export.program.loading.onnx_graphs.operator_table import operator
from recprune_export.program.loading.onnx_graphs.values import Value, as_tensor


@operator(LINEAR)
def linear(node: Node, value: Value, weight: Value, bias: Value | None = None) -> Tensor:
    """A layer, as `linear_nodes` finds it: x·Wᵀ + b."""
    w = as_tensor(weight)
    return F.linear(as_tensor(value), w.t() if node.get("transposed") else w, None if bias is None else as_tensor(bias))


@operator("MatMul")
def matmul(node: Node, left: Value, right: Value) -> Tensor:
    """`MatMul` of two tensors."""
    return torch.matmul(as_tensor(left), as_tensor(right))


@operator("Gemm")
def gemm(node: Node, left: Value, right: Value, bias: Value | None = None) -> Tensor:
    """`Gemm(a, b, c)` is α·a·b + β·c, with either of a and b transposed."""
    a, b = as_tensor(left), as_tensor(right)
    a, b = a.t() if node.get("transA", 0) else a, b.t() if node.get("transB", 0) else b
    product, alpha, beta = torch.matmul(a, b), node.get("alpha", 1.0), node.get("beta", 1.0)
    product = product if alpha == 1.0 else product * alpha
    if bias is None or beta == 0.0:
        return product
    return product + (as_tensor(bias) if beta == 1.0 else as_tensor(bias) * beta)


@operator("FusedMatMul", domain=CONTRIB)
def fused_matmul(node: Node, left: Value, right: Value) -> Tensor:
    """`FusedMatMul` of ONNX Runtime: α times a product, with the last two axes of either operand turned."""
    if node.get("transBatchA", 0) or node.get("transBatchB", 0):
        raise node.refuse("turns the batch")
    a, b = as_tensor(left), as_tensor(right)
    product = torch.matmul(
        a.transpose(-1, -2) if node.get("transA", 0) else a, b.transpose(-1, -2) if node.get("transB", 0) else b
    )
    return product if node.get("alpha", 1.0) == 1.0 else product * node.get("alpha")


@operator("Einsum")
def einsum(node: Node, *values: Value) -> Tensor:
    """`Einsum` by the same notation."""
    return torch.einsum(node.get("equation").replace(" ", ""), *map(as_tensor, values))


@operator("Conv")
def convolution(node: Node, value: Value, weight: Value, bias: Value | None = None) -> Tensor:
    """`Conv` over one or two axes, as models of sequences and of interaction maps use it."""
    x, w = as_tensor(value), as_tensor(weight)
    axes = w.ndim - 2
    if axes not in (1, 2):
        raise node.refuse(f"goes over {axes} axes")
    strides, dilations = node.get("strides") or [1] * axes, node.get("dilations") or [1] * axes
    pads = _read_pads(node, x, list(w.shape[2:]), strides, dilations, axes)
    x, padding = _apply_pads(x, pads, axes, 0.0)
    convolve = F.conv1d if axes == 1 else F.conv2d
    bias_tensor = None if bias is None else as_tensor(bias)
    return convolve(x, w, bias_tensor, strides, padding, dilations, node.get("group", 1))


@operator("MaxPool", "AveragePool")
def pool(node: Node, value: Value) -> Tensor:
    """`MaxPool` and `AveragePool` over one or two axes."""
    x = as_tensor(value)
    axes = x.ndim - 2
    if axes not in (1, 2) or node.get("ceil_mode", 0) or (len(node.outputs) > 1 and node.outputs[1]):
        raise node.refuse("has this form")
    kernel = node.get("kernel_shape")
    strides, dilations = node.get("strides") or [1] * axes, node.get("dilations") or [1] * axes
    pads = _read_pads(node, x, kernel, strides, dilations, axes)
    if node.operator == "MaxPool":
        x, padding = _apply_pads(x, pads, axes, float("-inf"))
        maximum = F.max_pool1d if axes == 1 else F.max_pool2d
        return maximum(x, kernel, strides, padding, dilations)
    if (any(pads) and not node.get("count_include_pad", 0)) or any(d != 1 for d in dilations):
        raise node.refuse("pads or dilates its windows")
    x, padding = _apply_pads(x, pads, axes, 0.0)
    average: Any = F.avg_pool1d if axes == 1 else F.avg_pool2d
    return average(x, kernel, strides, padding)


@operator("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node: Node, value: Value) -> Tensor:
    """The mean or maximum over all axes but batch and channels."""
    x = as_tensor(value)
    axes = list(range(2, x.ndim))
    return x.mean(axes, keepdim=True) if node.operator == "GlobalAveragePool" else x.amax(axes, keepdim=True)


def _read_pads(
    node: Node, x: Tensor, kernel: list[int], strides: list[int], dilations: list[int], axes: int
) -> list[int]:
    """Return the padding at the beginning of each axis, then that at the end of each."""
    mode = node.get("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        return list(node.get("pads") or [0] * 2 * axes)
    if mode == "VALID":
        return [0] * 2 * axes
    begins, ends = [], []
    for axis in range(axes):
        size = x.shape[2 + axis]
        if not isinstance(size, int):
            raise node.refuse("pads an axis of varying size")
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        total = max(0, (-(-size // strides[axis]) - 1) * strides[axis] + reach - size)
        less, more = total // 2, total - total // 2
        begins.append(less if mode == "SAME_UPPER" else more)
        ends.append(more if mode == "SAME_UPPER" else less)
    return begins + ends


def _apply_pads(x: Tensor, pads: list[int], axes: int, fill: float) -> tuple[Tensor, list[int]]:
    """Return x with padding that differs between both ends written into it, and the padding that is left to the operator."""
    if pads[:axes] == pads[axes:]:
        return x, pads[:axes]
    flat = [width for axis in reversed(range(axes)) for width in (pads[axis], pads[axes + axis])]
    return F.pad(x, flat, value=fill), [0] * axes
