"""Scales of dimensions on the smaller operand of a product."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import (
    add_initializer,
    find_nodes,
    find_only_consumer,
    get_constant_array,
    get_dims,
    get_rank,
)
from recprune_export.onnx.optimizer._rewrite import SelectivePass


@dataclass(frozen=True)
class _Scaled:
    """`Mul(x, s)` in a product with `other`; `upright`: the dimensions lie on the last axis but one of `other`."""

    node: ir.Node
    x: ir.Value
    scales: np.ndarray  # [K]
    reader: ir.Node  # of the product, or of its transpose
    product: ir.Node
    other: ir.Value
    upright: bool


def find_scales(model: ir.Model) -> Sequence[str]:
    """Name the results of products with scales that the other operand of what comes next could have instead."""
    return tuple(str(found.node.outputs[0].name) for found in _find_scaled_products(model.graph))


def _commute_dequantize_scale(model: ir.Model, places: Collection[str]) -> int:
    """Multiply the other operand of an inner product by the scales of dimensions.

    Before: `MatMul(Mul(x, s), u)`, `MatMul(u, Transpose(Mul(x, s)))` or `Mul(Mul(x, s), u)`, s one constant for each
    dimension (the last axis of x), which the product sums over or keeps, and nothing else reads x ∘ s. After: the same of
    x and u ∘ s. So a thousand candidates in int8 are widened, and the one user is scaled.

    Returns the number of scales that changed sides.
    """
    changed = 0
    for place in places:
        # found anew each time: where both sides are scaled, the first that moves stands in the way of the other
        found = next((each for each in _find_scaled_products(model.graph) if each.node.outputs[0].name == place), None)
        if found is not None:
            _move(model.graph, found)
            changed += 1
    return changed


commute_dequantize_scale = SelectivePass("lighten_scales", find_scales, _commute_dequantize_scale)


def _find_scaled_products(graph: ir.Graph) -> list[_Scaled]:
    return [found for node in find_nodes(graph, "Mul") for value in node.inputs if (found := _scaled(node, value))]


def _scaled(node: ir.Node, scales: ir.Value | None) -> _Scaled | None:
    array, (x, *others) = get_constant_array(scales), [value for value in node.inputs if value is not scales] or [None]
    if array is None or x is None or others or x.const_value is not None or get_rank(x) is None or not array.ndim:
        return None
    row = array.reshape(-1, array.shape[-1])[0]
    widens = get_dims(x) != get_dims(node.outputs[0])
    if widens or len(row) == 1 or not np.array_equal(array, np.broadcast_to(row, array.shape)):
        return None
    reader = find_only_consumer(node.outputs[0])
    rule = _RULES.get(reader.op_type) if reader is not None else None
    sides = None if rule is None or reader is None else rule(reader, node.outputs[0])
    return None if sides is None or reader is None else _Scaled(node, x, row, reader, *sides)


Sides = tuple[ir.Node, ir.Value, bool]


def _matmul(product: ir.Node, scaled: ir.Value) -> Sides | None:
    """The dimensions of the left operand are summed over."""
    left, other = product.inputs
    fits = left is scaled and other is not None and other.const_value is None and (get_rank(other) or 0) > 1
    return (product, other, True) if fits and other is not None else None


def _transpose(turned: ir.Node, scaled: ir.Value) -> Sides | None:
    """So are those of the right operand, transposed."""
    axes, product = get_rank(scaled) or 0, find_only_consumer(turned.outputs[0])
    order = turned.attributes.get_ints("perm", list(reversed(range(axes))))
    swaps = list(order) == [*range(axes - 2), axes - 1, axes - 2]
    if product is None or product.op_type != "MatMul" or product.inputs[1] is not turned.outputs[0] or not swaps:
        return None
    other = product.inputs[0]
    return None if other is None or other.const_value is not None else (product, other, False)


def _mul(product: ir.Node, scaled: ir.Value) -> Sides | None:
    """Element by element the dimensions stay where they are."""
    others = [value for value in product.inputs if value is not scaled]
    if len(others) != 1 or others[0] is None or others[0].const_value is not None or not get_rank(others[0]):
        return None
    return product, others[0], False


_RULES: dict[str, Callable[[ir.Node, ir.Value], Sides | None]] = {
    "MatMul": _matmul,
    "Transpose": _transpose,
    "Mul": _mul,
}


def _move(graph: ir.Graph, found: _Scaled) -> None:
    scales = found.scales[:, None] if found.upright else found.scales
    name = f"{found.node.outputs[0].name}_scales"
    scaled = ir.node("Mul", [found.other, add_initializer(graph, name, np.ascontiguousarray(scales))])
    scaled.outputs[0].name = f"{name}_applied"
    graph.insert_before(found.product, scaled)
    for position, value in enumerate(found.product.inputs):
        if value is found.other:
            found.product.replace_input_with(position, scaled.outputs[0])
    for position, value in enumerate(found.reader.inputs):
        if value is found.node.outputs[0]:
            found.reader.replace_input_with(position, found.x)
