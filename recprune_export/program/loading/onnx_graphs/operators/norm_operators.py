"""Normalizations: of the batch, of layers, of groups."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recprune_export.program.loading.onnx_graphs.onnx_graph import CONTRIB, Node
from recprune_export.program.loading.onnx_graphs.operator_table import operator
from recprune_export.program.loading.onnx_graphs.values import Value, as_tensor


def refuse_further_outputs(node: Node) -> None:
    """Raise `CaptureError` where a graph reads the second output of an operator, or a later one."""
    if any(node.outputs[1:]):
        raise node.refuse("has more outputs than its result, as in training")


@operator("BatchNormalization")
def batch_norm(node: Node, value: Value, scale: Value, bias: Value, mean: Value, variance: Value) -> Tensor:
    """`BatchNormalization` with the statistics of the file."""
    if node.get("training_mode", 0):
        raise node.refuse("computes its statistics from the request, as in training")
    refuse_further_outputs(node)
    x = as_tensor(value)
    return F.batch_norm(
        x, as_tensor(mean), as_tensor(variance), as_tensor(scale), as_tensor(bias), eps=node.get("epsilon", 1e-5)
    )


@operator("LayerNormalization")
def layer_norm(node: Node, value: Value, scale: Value, bias: Value | None = None) -> Tensor:
    """`LayerNormalization` over the axes from `axis` on."""
    refuse_further_outputs(node)
    x, axis = as_tensor(value), node.get("axis", -1)
    shape = list(x.shape[axis if axis < 0 else axis - x.ndim :])
    gain, shift = (None if v is None else as_tensor(v) for v in (scale, bias))
    if gain is not None and list(gain.shape) != shape:
        raise node.refuse("has a scale of another shape than that of the axes that it goes over")
    return F.layer_norm(x, shape, gain, shift, node.get("epsilon", 1e-5))


@operator("SkipLayerNormalization", domain=CONTRIB)
def skip_layer_norm(
    node: Node, value: Value, skip: Value, scale: Value, bias: Value | None = None, before: Value | None = None
) -> Any:
    """`SkipLayerNormalization` of ONNX Runtime: the norm of a sum; its fourth output is the sum."""
    if any(node.outputs[1:3]):
        raise node.refuse("has the outputs of training")
    total = as_tensor(value) + as_tensor(skip)
    total = total if before is None else total + as_tensor(before)
    shift = None if bias is None else as_tensor(bias)
    result = F.layer_norm(total, [total.shape[-1]], as_tensor(scale), shift, node.get("epsilon", 1e-12))
    return (result, None, None, total)[: len(node.outputs)]


@operator("RMSNormalization")
@operator("SimplifiedLayerNormalization")
@operator("SimplifiedLayerNormalization", domain=CONTRIB)
def rms_norm(node: Node, value: Value, scale: Value) -> Tensor:
    """`RMSNormalization` over the axes from `axis` on."""
    refuse_further_outputs(node)
    x, axis = as_tensor(value), node.get("axis", -1)
    shape = list(x.shape[axis if axis < 0 else axis - x.ndim :])
    return F.rms_norm(x, shape, as_tensor(scale), node.get("epsilon", 1e-5))


@operator("LpNormalization")
def lp_norm(node: Node, value: Value) -> Tensor:
    """`LpNormalization`: x over its norm along an axis."""
    x, order, axis = as_tensor(value), node.get("p", 2), node.get("axis", -1)
    norm = x.abs().sum(axis, keepdim=True) if order == 1 else torch.sqrt((x * x).sum(axis, keepdim=True))
    return x / norm


@operator("GroupNormalization")
def group_norm(node: Node, value: Value, scale: Value, bias: Value) -> Tensor:
    """`GroupNormalization`, with a scale for each channel, or for each group as before operator set 21."""
    x, groups = as_tensor(value), node.get("num_groups")
    gain, shift = as_tensor(scale), as_tensor(bias)
    if node.opset < 21:
        repeats = x.shape[1] // groups
        gain, shift = gain.repeat_interleave(repeats), shift.repeat_interleave(repeats)
    return F.group_norm(x, groups, gain, shift, node.get("epsilon", 1e-5))


@operator("InstanceNormalization")
def instance_norm(node: Node, value: Value, scale: Value, bias: Value) -> Tensor:
    """`InstanceNormalization` is a group norm of one channel in each group."""
    x = as_tensor(value)
    return F.group_norm(x, x.shape[1], as_tensor(scale), as_tensor(bias), node.get("epsilon", 1e-5))
