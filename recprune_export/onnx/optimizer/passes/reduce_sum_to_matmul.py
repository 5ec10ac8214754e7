"""Sums over a middle axis as a matrix product."""

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import add_initializer, find_nodes, get_constant_integers, replace_node
from recprune_export.onnx.optimizer.optimizer_constants import MAX_SUM_OPERATIONS


def reduce_sum_to_matmul(model: ir.Model) -> int:
    """Replace small sums over axis 1 of a value [batch, F, D] by a product with a matrix of ones and zeros.

    Before: `ReduceSum(x, axes=[1])` of finite x, F and D known and F·D·D at most `MAX_SUM_OPERATIONS`. After:
    `MatMul(Reshape(x, [-1, F·D]), Cast(I))`, where I is a stack of F identity matrices, stored as int8: it is structure,
    not a parameter, and ONNX Runtime casts it once, when it loads the model.

    Returns the number of replaced sums.
    """
    sums = [node for node in find_nodes(model.graph, "ReduceSum") if _is_small_middle_sum(node)]
    for node in sums:
        _replace(model.graph, node)
    return len(sums)


def _is_small_middle_sum(node: ir.Node) -> bool:
    x, axes = node.inputs[0], node.inputs[1] if len(node.inputs) > 1 else None
    if x is None or x.shape is None or x.dtype != ir.DataType.FLOAT or len(x.shape) != 3:
        return False
    if get_constant_integers(axes) not in ([1], [-2]):
        return False
    fields, dim = x.shape[1], x.shape[2]
    return isinstance(fields, int) and isinstance(dim, int) and 0 < fields * dim * dim <= MAX_SUM_OPERATIONS


def _replace(graph: ir.Graph, node: ir.Node) -> None:
    x, result = node.inputs[0], node.outputs[0]
    assert x is not None
    assert x.shape is not None
    fields, dim = int(x.shape[1]), int(x.shape[2])  # type: ignore[arg-type]
    identities = add_initializer(graph, f"{result.name}_identities", np.tile(np.eye(dim, dtype=np.int8), (fields, 1)))
    flat_shape = add_initializer(graph, f"{result.name}_flat", np.array([-1, fields * dim]))
    flat = ir.node("Reshape", [x, flat_shape])
    ones = ir.node("Cast", [identities], attributes={"to": ir.DataType.FLOAT.value})
    new = [flat, ones, ir.node("MatMul", [flat.outputs[0], ones.outputs[0]])]
    if node.attributes.get_int("keepdims", 1):
        shape = add_initializer(graph, f"{result.name}_shape", np.array([-1, 1, dim]))
        new.append(ir.node("Reshape", [new[-1].outputs[0], shape]))
    replace_node(graph, node, new)
