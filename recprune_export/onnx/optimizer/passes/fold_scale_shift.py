"""Scales and shifts as a part of the linear layers around them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import (
    add_initializer,
    find_nodes,
    find_only_consumer,
    find_producer,
    get_axis,
    get_constant_array,
    get_dims,
    get_rank,
    replace_uses,
)
from recprune_export.onnx.optimizer.linear_layers import Linear, match_linear, match_view, replace_weights

_OPERATORS = ("Mul", "Add", "Sub", "Div")


@dataclass(frozen=True)
class _Affine:
    """x ↦ scale · x + shift, both of the shape of a row of x."""

    scale: np.ndarray
    shift: np.ndarray

    def reshaped(self, shape: Sequence[int]) -> "_Affine":
        """For a view of x."""
        return _Affine(self.scale.reshape(shape), self.shift.reshape(shape))

    def among(self, axis: int, before: int, after: int) -> "_Affine":
        """For a join of x with others, which stay as they are."""
        around = [(before, after) if number == axis else (0, 0) for number in range(self.scale.ndim)]
        return _Affine(np.pad(self.scale, around, constant_values=1.0), np.pad(self.shift, around))


def fold_scale_shift(model: ir.Model) -> int:
    """Multiply scales and shifts by constants into the linear layers and tables next to them.

    Before: `Mul`, `Div`, `Add` or `Sub` of x and a constant (also a batch-norm, written as a product and a sum), where x
    is the result of a linear layer or of a lookup that nothing else reads, or where all that reads the result are linear
    layers, directly, through views, or as a part of a Concat. After: W′ = W·diag(s) and b′ = b·s + t for the layer
    before; W′ = diag(s)·W and b′ = b + t·W for those behind; T′ = T·s + t for a table. The node is gone. Weights that
    are read elsewhere as well stay, and so does what would change them.

    Returns the number of nodes that are gone.
    """
    folded = 0
    while gone := sum(_fold(model.graph, node) for node in find_nodes(model.graph, *_OPERATORS)):
        folded += gone  # one that is gone may have stood between another and its layer
    return folded


def _fold(graph: ir.Graph, node: ir.Node) -> int:
    return _fold_before(graph, node) or _fold_table(graph, node) or _fold_behind(graph, node)


def _affine_of(node: ir.Node) -> tuple[ir.Value, _Affine] | None:
    """x and the map, if the node is one; the constants must be the same for each row."""
    left, right = node.inputs
    x, other = (left, right) if get_constant_array(left) is None else (right, left)
    number = get_constant_array(other)
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


def _fold_before(graph: ir.Graph, node: ir.Node) -> int:
    """Into the layer that makes x."""
    found = _affine_of(node)
    if found is None:
        return 0
    x, affine = found
    made = x.producer()
    source = made if made is None or made.op_type != "Add" else _product_before(made)
    layer = None if source is None else match_linear(source)
    if layer is None or layer.result is not x or find_only_consumer(x) is not node or not layer.owns_weight:
        return 0
    if layer.shift is node or not _same_for_all_but_last(affine):
        return 0
    scale, shift = (_last(part, layer.outputs) for part in (affine.scale, affine.shift))
    before = layer.vector()
    vector = None if before is None and not shift.any() else (0.0 if before is None else before * scale) + shift
    replace_uses(node.outputs[0], replace_weights(graph, layer, layer.matrix() * scale, vector))
    graph.remove(node, safe=True)
    return 1


def _product_before(add: ir.Node) -> ir.Node | None:
    return next((product for value in add.inputs if (product := find_producer(value, "MatMul")) is not None), None)


def _fold_table(graph: ir.Graph, node: ir.Node) -> int:
    """Into the table in which x was looked up."""
    found = _affine_of(node)
    lookup = find_producer(found[0], "Gather") if found else None
    table = lookup.inputs[0] if lookup else None
    if (
        found is None
        or lookup is None
        or table is None
        or find_only_consumer(found[0]) is not node
        or get_axis(lookup, 2)
    ):
        return 0
    rows = get_constant_array(table)
    if rows is None or rows.ndim != 2 or len(list(table.uses())) != 1 or not _same_for_all_but_last(found[1]):
        return 0
    scale, shift = (_last(part, rows.shape[1]) for part in (found[1].scale, found[1].shift))
    moved = (rows * scale + shift).astype(rows.dtype)
    lookup.replace_input_with(0, add_initializer(graph, f"{table.name}_folded", moved))
    replace_uses(node.outputs[0], found[0])
    graph.remove(node, safe=True)
    return 1


def _fold_behind(graph: ir.Graph, node: ir.Node) -> int:
    """Into all layers that read the result."""
    found = _affine_of(node)
    targets = None if found is None else _targets(node.outputs[0], found[1])
    if found is None or not targets or len({layer.weight for layer, _ in targets}) < len(targets):
        return 0
    if not all(layer.owns_weight for layer, _ in targets):
        return 0
    for layer, affine in targets:
        matrix, before = layer.matrix(), layer.vector()
        scale, shift = (_last(part, layer.inputs) for part in (affine.scale, affine.shift))
        moved = shift @ matrix
        vector = before if not shift.any() else moved + (0.0 if before is None else before)
        replace_weights(graph, layer, matrix * scale[:, None], vector)
    replace_uses(node.outputs[0], found[0])
    graph.remove(node, safe=True)
    return 1


def _targets(value: ir.Value, affine: _Affine) -> list[tuple[Linear, _Affine]] | None:
    """The layers that read `value`, each with the map of its whole operand; None where something else reads it too."""
    found: list[tuple[Linear, _Affine]] = []
    if value.is_graph_output():
        return None
    for node, position in value.uses():
        view = match_view(node, value)
        further: list[tuple[Linear, _Affine]] | None = None
        if (layer := match_linear(node)) is not None and position == 0 and _same_for_all_but_last(affine):
            further = [(layer, affine)]
        elif view is not None and get_rank(view):
            further = _targets(view, affine.reshaped([int(size) for size in (view.shape or ())[1:]]))  # type: ignore[arg-type]
        elif node.op_type == "Concat" and list(node.inputs).count(value) == 1:
            joined = _joined(node, position, affine)
            further = None if joined is None else _targets(node.outputs[0], joined)
        if further is None:
            return None
        found += further
    return found


def _joined(node: ir.Node, position: int, affine: _Affine) -> _Affine | None:
    shapes = [get_dims(value) for value in node.inputs]
    axis = get_axis(node, affine.scale.ndim + 1) - 1
    if axis < 0:
        return None
    widths = [shape[axis + 1] if shape is not None else None for shape in shapes]
    if not all(isinstance(width, int) for width in widths):
        return None
    return affine.among(axis, sum(widths[:position]), sum(widths[position + 1 :]))  # type: ignore[arg-type]


def _same_for_all_but_last(affine: _Affine) -> bool:
    return affine.scale.ndim > 0 and all(
        bool((part == part.reshape(-1, part.shape[-1])[0]).all()) for part in (affine.scale, affine.shift)
    )


def _last(part: np.ndarray, width: int) -> np.ndarray:
    return part.reshape(-1, width)[0]
