"""Detect programs that compute finite numbers for every request, unless a number overflows."""

import math
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import argument
from recprune_export.program.program import Program
from recprune_export.program.view_operators import DATA_MOVEMENT_OPERATORS

aten = torch.ops.aten

# A result that is not finite needs an operand that is not finite, or one near the limits of float32.
_FINITE_OPERATORS = DATA_MOVEMENT_OPERATORS | {
    aten.add.Tensor,
    aten.addmm.default,
    aten.bmm.default,
    aten.clamp.default,
    aten.clamp_max.default,
    aten.clamp_min.default,
    aten.dropout.default,
    aten.embedding.default,
    aten.eq.Scalar,
    aten.gelu.default,
    aten.gt.Scalar,
    aten.leaky_relu.default,
    aten.linear.default,
    aten.matmul.default,
    aten.mm.default,
    aten.mul.Tensor,
    aten.ne.Scalar,
    aten.neg.default,
    aten.relu.default,
    aten.sigmoid.default,
    aten.silu.default,
    aten.square.default,
    aten.sub.Tensor,
    aten.sum.dim_IntList,
    aten.tanh.default,
    aten.to.dtype,
}
_NORMALIZATIONS = {aten.batch_norm.default, aten.layer_norm.default}
_FLOAT32 = torch.finfo(torch.float32)


def gives_finite_values(program: Program) -> bool:
    """Return whether every operator of `program` is known to give finite numbers for finite ones; O(nodes + buffers).

    An operator that is unknown here may compute a logarithm or the softmax of a row that is masked as a whole. A program
    with values in float16 is refused, because ordinary numbers overflow in it.
    """
    parameters = program.parameters().keys()  # weights are finite: loading a model checks this
    nodes = program.module.graph.nodes
    if not all(_has_range_of_float32(node) and (node.op != "call_function" or _is_finite(node)) for node in nodes):
        return False
    buffers = {str(node.target) for node in nodes if node.op == "get_attr"} - parameters
    return all(bool(tensor_at(program.module, name).isfinite().all()) for name in buffers)


def _has_range_of_float32(node: fx.Node) -> bool:
    values = [value for value in pytree.tree_leaves(node.meta.get("val")) if isinstance(value, torch.Tensor)]
    return all(
        not v.dtype.is_floating_point or torch.finfo(v.dtype).max >= torch.finfo(torch.bfloat16).max for v in values
    )


def _is_finite(node: fx.Node) -> bool:
    constants = [value for value in (*node.args, *node.kwargs.values()) if isinstance(value, float)]
    if not all(map(math.isfinite, constants)):
        return False
    if node.target in _NORMALIZATIONS:
        eps = argument(node, "eps")
        return isinstance(eps, float) and eps >= _FLOAT32.tiny
    if node.target is aten.div.Tensor:
        return _is_positive(node.args[1])
    return node.target in _FINITE_OPERATORS


def _is_positive(divisor: Any) -> bool:
    """Return whether a divisor is a positive number that float32 does not round to 0, or a value clamped to at least one."""
    if isinstance(divisor, fx.Node):
        return divisor.target is aten.clamp_min.default and _is_positive(divisor.args[1])
    return isinstance(divisor, int | float) and divisor >= _FLOAT32.tiny
