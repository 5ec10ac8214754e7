"""Small tables as a part of the first layer."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import array_of, axis_of, constant, nodes_of, only_user, rank, replace
from recprune_export.onnx.optimizer.embedding_lookups import Lookup, lookup_of, only_looked_up
from recprune_export.onnx.optimizer.linear_layers import Linear, linear_of


@dataclass(frozen=True)
class _Place:
    """A lookup that is operand `position` of a join, whose columns of W begin at `first`."""

    lookup: Lookup
    position: int
    first: int


def fold_small_tables(model: ir.Model) -> int:
    """Multiply a small table with its part of the first layer, once and for all.

    Before: `Gemm(Concat(…, Gather(T, i), …), W, b)`, T [rows, D] read by nothing else, and rows·H at most rows·D + D·H,
    so that the file does not grow (H hidden units). After: `Gemm(Concat(…), W without T's part, Gather(T·W_T + b, i))`:
    D·H multiply-adds less for each row. A layer can take one table this way, the widest.

    Returns the number of tables that were folded.
    """
    folded = 0
    for node in nodes_of(model.graph, "Concat"):
        reader = only_user(node.outputs[0]) if rank(node.outputs[0]) == 2 and axis_of(node, 2) == 1 else None
        layer = linear_of(reader) if reader is not None else None
        if layer is not None and layer.node.op_type == "Gemm" and layer.owns_weight and len(node.inputs) > 1:
            places = [place for place in _places(node) if _is_small(place.lookup, layer.outputs)]
            if places:
                _fold(model.graph, node, layer, max(places, key=lambda place: place.lookup.width))
                folded += 1
    return folded


def _places(node: ir.Node) -> list[_Place]:
    found: list[_Place] = []
    first = 0
    for position, value in enumerate(node.inputs):
        width = value.shape[1] if value is not None and value.shape is not None else None
        if value is None or not isinstance(width, int):
            return found
        lookup = lookup_of(value)
        if lookup is not None and lookup.node.outputs[0] is value and only_user(value) is node:
            found.append(_Place(lookup, position, first))
        first += width
    return found


def _is_small(lookup: Lookup, hidden: int) -> bool:
    alone = only_looked_up(lookup.table) and len(list(lookup.table.uses())) == 1
    return alone and lookup.rows * hidden <= lookup.rows * lookup.width + lookup.width * hidden


def _fold(graph: ir.Graph, join: ir.Node, layer: Linear, place: _Place) -> None:
    lookup, last = place.lookup, place.first + place.lookup.width
    matrix, bias, table = layer.matrix(), layer.vector(), array_of(lookup.table)
    assert table is not None
    folded = table.astype(np.float64) @ matrix[place.first : last] + (0.0 if bias is None else bias)
    rest = np.delete(matrix, np.s_[place.first : last], axis=0)
    weight = constant(
        graph,
        f"{layer.weight.name}_rest",
        np.ascontiguousarray(rest.T if layer.transposed else rest, dtype=np.float32),
    )
    rows = constant(graph, f"{lookup.table.name}_folded", folded.astype(np.float32))
    found = ir.node("Gather", [rows, lookup.node.inputs[1]], attributes={"axis": 0})
    operands = [*join.inputs[: place.position], *join.inputs[place.position + 1 :]]
    joined = ir.node("Concat", operands, attributes={"axis": 1})
    product = ir.node(
        "Gemm",
        [joined.outputs[0], weight, found.outputs[0]],
        attributes={"transB": int(layer.transposed)},
    )
    replace(graph, layer.node, [found, joined, product])
