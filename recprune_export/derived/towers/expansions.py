"""Removal of expansions to the shape of another value, which would make one tower read the inputs of the other."""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from recprune_export.onnx.graph import find_nodes, get_dims, get_output, replace_uses

_BROADCASTING = {"Add", "Sub", "Mul", "Div"}


def remove_expansions(model: ir.Model) -> None:
    """Remove each Expand whose result is combined only with values of the same shape, to which operators broadcast anyway.

    Before: Div(x, Expand(norm, Shape(y))), with x of the shape of y. After: Div(x, norm).
    """
    for node in find_nodes(model.graph, "Expand"):
        value, source = get_output(node), node.inputs[0]
        if (
            source is not None
            and not value.is_graph_output()
            and all(_has_the_shape_anyway(use.node, value) for use in value.uses())
        ):
            replace_uses(value, source)
    RemoveUnusedNodesPass()(model)


def _has_the_shape_anyway(node: ir.Node, value: ir.Value) -> bool:
    if node.op_type not in _BROADCASTING or node.domain not in ("", "ai.onnx"):
        return False
    others = [operand for operand in node.inputs if operand is not value]
    dims = get_dims(value)
    return dims is not None and len(others) == 1 and get_dims(others[0]) == dims
