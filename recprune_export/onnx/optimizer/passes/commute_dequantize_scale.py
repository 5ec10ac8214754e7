"""Scales of a dequantization moved to the smaller operand of a product."""

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
class _ScaledProduct:
    """`Mul(x, s)` in a product with `operand`; `on_rows`: the dimensions are the second last axis of `operand`."""

    node: ir.Node
    x: ir.Value
    scales: np.ndarray  # [K]
    reader: ir.Node  # the product, or the transpose before it
    product: ir.Node
    operand: ir.Value
    on_rows: bool


def find_scales(model: ir.Model) -> Sequence[str]:
    """Return the names of scaled values whose scales could move to the other operand of the next product."""
    return tuple(str(product.node.outputs[0].name) for product in _find_scaled_products(model.graph))


def _commute_dequantize_scale(model: ir.Model, places: Collection[str]) -> int:
    """Multiply the other operand of an inner product by the scales of dimensions.

    Before: `MatMul(Mul(x, s), u)`, `MatMul(u, Transpose(Mul(x, s)))` or `Mul(Mul(x, s), u)`, s one constant for each
    dimension (the last axis of x), which the product sums over or keeps, and nothing else reads x ∘ s. After: the same
    product of x and u ∘ s. A thousand candidates in int8 are then only cast, and the single user is scaled.

    Returns the number of moved scales.
    """
    changed = 0
    for place in places:
        # searched again each time: where both operands are scaled, moving one scale blocks the other
        products = _find_scaled_products(model.graph)
        product = next((product for product in products if product.node.outputs[0].name == place), None)
        if product is not None:
            _move_scales(model.graph, product)
            changed += 1
    return changed


commute_dequantize_scale = SelectivePass("commute_dequantize_scale", find_scales, _commute_dequantize_scale)


def _find_scaled_products(graph: ir.Graph) -> list[_ScaledProduct]:
    return [
        product
        for node in find_nodes(graph, "Mul")
        for value in node.inputs
        if (product := _match_scaled_product(node, value))
    ]


def _match_scaled_product(node: ir.Node, scales: ir.Value | None) -> _ScaledProduct | None:
    array, (x, *more_operands) = (
        get_constant_array(scales),
        [value for value in node.inputs if value is not scales] or [None],
    )
    if (
        array is None
        or x is None
        or more_operands
        or x.const_value is not None
        or get_rank(x) is None
        or not array.ndim
    ):
        return None
    row = array.reshape(-1, array.shape[-1])[0]
    broadcasts = get_dims(x) != get_dims(node.outputs[0])
    if broadcasts or len(row) == 1 or not np.array_equal(array, np.broadcast_to(row, array.shape)):
        return None
    reader = find_only_consumer(node.outputs[0])
    rule = _RULES.get(reader.op_type) if reader is not None else None
    matched = None if rule is None or reader is None else rule(reader, node.outputs[0])
    return None if matched is None or reader is None else _ScaledProduct(node, x, row, reader, *matched)


ProductMatch = tuple[ir.Node, ir.Value, bool]


def _match_left_operand(product: ir.Node, scaled: ir.Value) -> ProductMatch | None:
    """Match a MatMul with a scaled left operand, whose last axis is summed over."""
    left, operand = product.inputs
    fits = left is scaled and operand is not None and operand.const_value is None and (get_rank(operand) or 0) > 1
    return (product, operand, True) if fits and operand is not None else None


def _match_right_operand(transpose: ir.Node, scaled: ir.Value) -> ProductMatch | None:
    """Match a MatMul with a scaled right operand behind a transpose of its last two axes."""
    axes, product = get_rank(scaled) or 0, find_only_consumer(transpose.outputs[0])
    order = transpose.attributes.get_ints("perm", list(reversed(range(axes))))
    swaps = list(order) == [*range(axes - 2), axes - 1, axes - 2]
    if product is None or product.op_type != "MatMul" or product.inputs[1] is not transpose.outputs[0] or not swaps:
        return None
    operand = product.inputs[0]
    return None if operand is None or operand.const_value is not None else (product, operand, False)


def _match_elementwise(product: ir.Node, scaled: ir.Value) -> ProductMatch | None:
    """Match an elementwise product, which keeps the dimensions."""
    operands = [value for value in product.inputs if value is not scaled]
    if len(operands) != 1 or operands[0] is None or operands[0].const_value is not None or not get_rank(operands[0]):
        return None
    return product, operands[0], False


_RULES: dict[str, Callable[[ir.Node, ir.Value], ProductMatch | None]] = {
    "MatMul": _match_left_operand,
    "Transpose": _match_right_operand,
    "Mul": _match_elementwise,
}


def _move_scales(graph: ir.Graph, match: _ScaledProduct) -> None:
    scales = match.scales[:, None] if match.on_rows else match.scales
    name = f"{match.node.outputs[0].name}_scales"
    scaled = ir.node("Mul", [match.operand, add_initializer(graph, name, np.ascontiguousarray(scales))])
    scaled.outputs[0].name = f"{name}_applied"
    graph.insert_before(match.product, scaled)
    for position, value in enumerate(match.product.inputs):
        if value is match.operand:
            match.product.replace_input_with(position, scaled.outputs[0])
    for position, value in enumerate(match.reader.inputs):
        if value is match.node.outputs[0]:
            match.reader.replace_input_with(position, match.x)
