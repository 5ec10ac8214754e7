"""Scales and shifts folded into the linear layers and tables next to them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import (
    add_initializer,
    copy_bits,
    find_nodes,
    find_only_consumer,
    find_producer,
    get_axis,
    get_bits,
    get_constant_array,
    get_dims,
    get_rank,
    replace_uses,
)
from recprune_export.onnx.optimizer.linear_layers import Linear, match_linear, match_view, replace_weights

_OPERATORS = ("Mul", "Add", "Sub", "Div")


@dataclass(frozen=True)
class _Affine:
    """A map x ↦ scale · x + shift, both of the shape of a row of x."""

    scale: np.ndarray
    shift: np.ndarray

    def reshaped(self, shape: Sequence[int]) -> "_Affine":
        """Return the map of a view of x."""
        return _Affine(self.scale.reshape(shape), self.shift.reshape(shape))

    def padded(self, axis: int, before: int, after: int) -> "_Affine":
        """Return the map of a Concat of x with other values, on which it is the identity."""
        pads = [(before, after) if number == axis else (0, 0) for number in range(self.scale.ndim)]
        return _Affine(np.pad(self.scale, pads, constant_values=1.0), np.pad(self.shift, pads))


def fold_scale_shift(model: ir.Model) -> int:
    """Fold scales and shifts by constants into the linear layers and tables next to them.

    Before: `Mul`, `Div`, `Add` or `Sub` of x and a constant (also a batch normalization, written as a product and a
    sum), where x is the result of a linear layer or of a lookup that nothing else reads, or where all consumers of the
    result are linear layers, directly, through views, or through a Concat. After: W′ = W·diag(s) and b′ = b·s + t for
    the layer before; W′ = diag(s)·W and b′ = b + t·W for those after; T′ = T·s + t for a table. The node is removed,
    unless a weight has other consumers.

    Returns the number of removed nodes.
    """
    total = 0
    while folded := sum(_fold(model.graph, node) for node in find_nodes(model.graph, *_OPERATORS)):
        total += folded  # a removed node may have separated another one from its layer
    return total


def _fold(graph: ir.Graph, node: ir.Node) -> int:
    return _fold_into_producer(graph, node) or _fold_into_table(graph, node) or _fold_into_consumers(graph, node)


def _match_affine(node: ir.Node) -> tuple[ir.Value, _Affine] | None:
    """Return x and the map of a node, or None; the constants must be the same for each row."""
    left, right = node.inputs
    x, constant = (left, right) if get_constant_array(left) is None else (right, left)
    number = get_constant_array(constant)
    row = get_dims(x)
    if x is None or number is None or row is None or x.const_value is not None or x.dtype != ir.DataType.FLOAT:
        return None
    if not all(isinstance(size, int) for size in row[1:]) or get_dims(node.outputs[0]) != row or not row:
        return None
    if number.ndim > len(row) or (number.ndim == len(row) and number.shape[0] != 1):
        return None
    shape = [int(size) for size in row[1:]]  # type: ignore[arg-type]
    values = np.broadcast_to(number.reshape(number.shape[-len(shape) :] if shape else ()), shape).astype(np.float64)
    ones, zeros = np.ones(shape), np.zeros(shape)
    match node.op_type:
        case "Mul":
            return x, _Affine(values, zeros)
        case "Add":
            return x, _Affine(ones, values)
        case "Sub":
            return x, _Affine(ones, -values) if x is left else _Affine(-ones, values)
        case "Div" if x is left and values.all():
            return x, _Affine(1.0 / values, zeros)
    return None


def _fold_into_producer(graph: ir.Graph, node: ir.Node) -> int:
    """Fold a map into the layer that computes x; return 1 if it was folded, else 0."""
    match = _match_affine(node)
    if match is None:
        return 0
    x, affine = match
    producer = x.producer()
    source = producer if producer is None or producer.op_type != "Add" else _find_product(producer)
    layer = None if source is None else match_linear(source)
    if layer is None or layer.result is not x or find_only_consumer(x) is not node or not layer.owns_weight:
        return 0
    if layer.shift is node or not _varies_on_last_axis_only(affine):
        return 0
    scale, shift = (_get_last_axis(values, layer.outputs) for values in (affine.scale, affine.shift))
    before = layer.vector()
    vector = None if before is None and not shift.any() else (0.0 if before is None else before * scale) + shift
    replace_uses(node.outputs[0], replace_weights(graph, layer, layer.matrix() * scale, vector))
    graph.remove(node, safe=True)
    return 1


def _find_product(add: ir.Node) -> ir.Node | None:
    return next((product for value in add.inputs if (product := find_producer(value, "MatMul")) is not None), None)


def _fold_into_table(graph: ir.Graph, node: ir.Node) -> int:
    """Fold a map into the table in which x is looked up; return 1 if it was folded, else 0."""
    match = _match_affine(node)
    if match is None:
        return 0
    x, affine = match
    lookup = find_producer(x, "Gather")
    table = lookup.inputs[0] if lookup else None
    if lookup is None or table is None or find_only_consumer(x) is not node or get_axis(lookup, 2):
        return 0
    rows = get_constant_array(table)
    if rows is None or rows.ndim != 2 or len(list(table.uses())) != 1 or not _varies_on_last_axis_only(affine):
        return 0
    scale, shift = (_get_last_axis(values, rows.shape[1]) for values in (affine.scale, affine.shift))
    if get_bits(table) < 16:
        return 0  # rows that were rounded to their levels would be rounded again
    folded_rows = (rows * scale + shift).astype(rows.dtype)
    lookup.replace_input_with(0, copy_bits(table, add_initializer(graph, f"{table.name}_folded", folded_rows)))
    replace_uses(node.outputs[0], x)
    graph.remove(node, safe=True)
    return 1


def _fold_into_consumers(graph: ir.Graph, node: ir.Node) -> int:
    """Fold a map into all layers that read the result; return 1 if it was folded, else 0."""
    match = _match_affine(node)
    targets = None if match is None else _find_target_layers(node.outputs[0], match[1])
    if match is None or not targets or len({layer.weight for layer, _ in targets}) < len(targets):
        return 0
    if not all(layer.owns_weight for layer, _ in targets):
        return 0
    for layer, affine in targets:
        matrix, before = layer.matrix(), layer.vector()
        scale, shift = (_get_last_axis(values, layer.inputs) for values in (affine.scale, affine.shift))
        vector = before if not shift.any() else shift @ matrix + (0.0 if before is None else before)
        replace_weights(graph, layer, matrix * scale[:, None], vector)
    replace_uses(node.outputs[0], match[0])
    graph.remove(node, safe=True)
    return 1


def _find_target_layers(value: ir.Value, affine: _Affine) -> list[tuple[Linear, _Affine]] | None:
    """Return the layers that read `value`, each with the map of its whole operand; None with any other consumer."""
    targets: list[tuple[Linear, _Affine]] = []
    if value.is_graph_output():
        return None
    for node, position in value.uses():
        view = match_view(node, value)
        further: list[tuple[Linear, _Affine]] | None = None
        if (layer := match_linear(node)) is not None and position == 0 and _varies_on_last_axis_only(affine):
            further = [(layer, affine)]
        elif view is not None and get_rank(view):
            further = _find_target_layers(view, affine.reshaped([int(size) for size in (view.shape or ())[1:]]))  # type: ignore[arg-type]
        elif node.op_type == "Concat" and list(node.inputs).count(value) == 1:
            padded = _pad_map(node, position, affine)
            further = None if padded is None else _find_target_layers(node.outputs[0], padded)
        if further is None:
            return None
        targets += further
    return targets


def _pad_map(node: ir.Node, position: int, affine: _Affine) -> _Affine | None:
    shapes = [get_dims(value) for value in node.inputs]
    axis = get_axis(node, affine.scale.ndim + 1) - 1
    if axis < 0:
        return None
    widths = [shape[axis + 1] if shape is not None else None for shape in shapes]
    if not all(isinstance(width, int) for width in widths):
        return None
    return affine.padded(axis, sum(widths[:position]), sum(widths[position + 1 :]))  # type: ignore[arg-type]


def _varies_on_last_axis_only(affine: _Affine) -> bool:
    return affine.scale.ndim > 0 and all(
        bool((values == values.reshape(-1, values.shape[-1])[0]).all()) for values in (affine.scale, affine.shift)
    )


def _get_last_axis(values: np.ndarray, width: int) -> np.ndarray:
    return values.reshape(-1, width)[0]
