"""Small tables as a part of the first layer."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import (
    add_initializer,
    find_nodes,
    find_only_consumer,
    get_axis,
    get_constant_array,
    get_rank,
    replace_node,
)
from recprune_export.onnx.optimizer.embedding_lookups import EmbeddingLookup, is_only_looked_up, match_lookup
from recprune_export.onnx.optimizer.linear_layers import Linear, match_linear


@dataclass(frozen=True)
class _Place:
    """A lookup that is operand `position` of a join, whose columns of W begin at `first`."""

    lookup: EmbeddingLookup
    position: int
    first: int


def fold_table_into_gemm(model: ir.Model) -> int:
    """Multiply a small table with its part of the first layer, once and for all.

    Before: `Gemm(Concat(…, Gather(T, i), …), W, b)`, T [rows, D] read by nothing else, and rows·H at most rows·D + D·H,
    so that the file does not grow (H hidden units). After: `Gemm(Concat(…), W without T's part, Gather(T·W_T + b, i))`:
    D·H multiply-adds less for each row. A layer can take one table this way, the widest.

    Returns the number of tables that were folded.
    """
    folded = 0
    for node in find_nodes(model.graph, "Concat"):
        reader = (
            find_only_consumer(node.outputs[0]) if get_rank(node.outputs[0]) == 2 and get_axis(node, 2) == 1 else None
        )
        layer = match_linear(reader) if reader is not None else None
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
        lookup = match_lookup(value)
        if lookup is not None and lookup.node.outputs[0] is value and find_only_consumer(value) is node:
            found.append(_Place(lookup, position, first))
        first += width
    return found


def _is_small(lookup: EmbeddingLookup, hidden: int) -> bool:
    alone = is_only_looked_up(lookup.table) and len(list(lookup.table.uses())) == 1
    return alone and lookup.rows * hidden <= lookup.rows * lookup.width + lookup.width * hidden


def _fold(graph: ir.Graph, join: ir.Node, layer: Linear, place: _Place) -> None:
    lookup, last = place.lookup, place.first + place.lookup.width
    matrix, bias, table = layer.matrix(), layer.vector(), get_constant_array(lookup.table)
    assert table is not None
    folded = table.astype(np.float64) @ matrix[place.first : last] + (0.0 if bias is None else bias)
    rest = np.delete(matrix, np.s_[place.first : last], axis=0)
    weight = add_initializer(
        graph,
        f"{layer.weight.name}_rest",
        np.ascontiguousarray(rest.T if layer.transposed else rest, dtype=np.float32),
    )
    rows = add_initializer(graph, f"{lookup.table.name}_folded", folded.astype(np.float32))
    found = ir.node("Gather", [rows, lookup.node.inputs[1]], attributes={"axis": 0})
    operands = [*join.inputs[: place.position], *join.inputs[place.position + 1 :]]
    joined = ir.node("Concat", operands, attributes={"axis": 1})
    product = ir.node(
        "Gemm",
        [joined.outputs[0], weight, found.outputs[0]],
        attributes={"transB": int(layer.transposed)},
    )
    replace_node(graph, layer.node, [found, joined, product])
