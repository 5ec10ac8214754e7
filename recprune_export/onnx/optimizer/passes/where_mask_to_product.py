"""Additive masks as a product with the part that depends on the request."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.cost.weightless_model import fill_shapes
from recprune_export.onnx.graph import (
    add_initializer,
    find_nodes,
    find_producer,
    get_constant_array,
    get_constant_scalar,
    get_dims,
    replace_node,
)

_MASKED = -1e4  # values up to this are an additive mask: onnx/counts.py
_LOGIC = {"And": np.logical_and, "Or": np.logical_or}


def where_mask_to_product(model: ir.Model) -> int:
    """Compute an additive mask from one Boolean of the request by a product and a sum.

    Before: `Where(f(k), 0, low)`, f of And, Or and Not with constants, k one Boolean value of the request, such as which
    items of a history are known, and low a finite number. After: `Add(m1, Mul(Cast(Not(k)), m0 - m1))` with the masks m1
    and m0 of a k that is all true and all false, which are stored as Boolean. Each position either depends on k or is constant, so this
    is exact. If the mask for a true k masks more than that for a false one, nothing is changed. Where takes ten times as long as a
    product for each element.

    Returns the number of masks.
    """
    changed = 0
    for node in find_nodes(model.graph, "Where"):
        changed += _replace(model.graph, node)
    if changed:
        model.graph.sort()
        fill_shapes(model)
    return changed


def _replace(graph: ir.Graph, node: ir.Node) -> int:
    allowed, zero, low = node.inputs
    lowest = get_constant_scalar(low)
    if get_constant_scalar(zero) != 0.0 or lowest is None or not -np.inf < lowest <= _MASKED:
        return 0
    if low is None or low.dtype != ir.DataType.FLOAT or allowed is None or allowed.const_value is not None:
        return 0
    leaves = _find_leaves(allowed)
    if len(leaves) != 1:
        return 0
    (leaf,) = leaves
    if get_dims(leaf) is None:
        return 0
    masks = [_evaluate(allowed, {leaf: np.array(value)}) for value in (True, False)]
    if (masks[1] & ~masks[0]).any() or masks[0].ndim == 0 or masks[1].ndim == 0:
        return 0
    name = node.outputs[0].name

    def mask(part: str, is_allowed: np.ndarray) -> ir.Node:
        """Return an additive mask, stored as Boolean: ONNX Runtime computes it once, when it loads the model."""
        return ir.node("Where", [add_initializer(graph, f"{name}_{part}", is_allowed), zero, low])

    inverse = ir.node("Not", [leaf])
    unknown = ir.node("Cast", [inverse.outputs[0]], attributes={"to": ir.DataType.FLOAT.value})
    difference = mask("of_unknown", masks[1] | ~masks[0])
    product = ir.node("Mul", [unknown.outputs[0], difference.outputs[0]])
    new = [inverse, unknown, difference, product]
    if not masks[0].all():
        base = mask("of_known", masks[0])
        new += [base, ir.node("Add", [product.outputs[0], base.outputs[0]])]
    replace_node(graph, node, new)
    return 1


def _find_leaves(value: ir.Value) -> set[ir.Value]:
    """Return the values of the request from which `value` is computed by And, Or and Not."""
    node = find_producer(value, *_LOGIC, "Not")
    if node is None:
        return {value}
    operands = [operand for operand in node.inputs if operand is not None and operand.const_value is None]
    return {leaf for operand in operands for leaf in _find_leaves(operand)}


def _evaluate(value: ir.Value | None, known: Mapping[ir.Value, np.ndarray]) -> np.ndarray:
    """Return a Boolean value, given the values of the request."""
    assert value is not None
    if value in known:
        return known[value]
    if (array := get_constant_array(value)) is not None:
        return array.astype(bool)
    node = value.producer()
    assert node is not None
    operands = [_evaluate(operand, known) for operand in node.inputs]
    return np.logical_not(*operands) if node.op_type == "Not" else _LOGIC[node.op_type](*operands)
