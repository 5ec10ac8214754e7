"""Small tables folded into the first layer."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import (
    add_initializer,
    copy_bits,
    find_nodes,
    find_only_consumer,
    get_axis,
    get_bits,
    get_constant_array,
    get_rank,
    replace_node,
)
from recprune_export.onnx.optimizer.embedding_lookups import EmbeddingLookup, is_only_looked_up, match_lookup
from recprune_export.onnx.optimizer.linear_layers import Linear, match_linear


@dataclass(frozen=True)
class _FoldableLookup:
    """A lookup that is operand `position` of a Concat, and the `first` of its columns of W."""

    lookup: EmbeddingLookup
    position: int
    first: int


def fold_table_into_gemm(model: ir.Model) -> int:
    """Multiply a small table by its columns of the first layer at export.

    Before: `Gemm(Concat(…, Gather(T, i), …), W, b)`, T [rows, D] read by nothing else, and rows·H at most rows·D + D·H,
    so that the file does not grow (H hidden units); neither T nor W has fewer bits planned. After:
    `Gemm(Concat(…), W without W_T, Gather(T·W_T + b, i))`, with D·H fewer multiply-adds for each row. A layer can take one
    table this way, the widest.

    Returns the number of folded tables.
    """
    folded = 0
    for node in find_nodes(model.graph, "Concat"):
        reader = (
            find_only_consumer(node.outputs[0]) if get_rank(node.outputs[0]) == 2 and get_axis(node, 2) == 1 else None
        )
        layer = match_linear(reader) if reader is not None else None
        if layer is not None and layer.node.op_type == "Gemm" and layer.owns_weight and len(node.inputs) > 1:
            lookups = [
                foldable for foldable in _find_foldable_lookups(node) if _is_small(foldable.lookup, layer.outputs)
            ]
            if lookups and get_bits(layer.weight) == 32:
                _fold(model.graph, node, layer, max(lookups, key=lambda foldable: foldable.lookup.width))
                folded += 1
    return folded


def _find_foldable_lookups(node: ir.Node) -> list[_FoldableLookup]:
    lookups: list[_FoldableLookup] = []
    first = 0
    for position, value in enumerate(node.inputs):
        width = value.shape[1] if value is not None and value.shape is not None else None
        if value is None or not isinstance(width, int):
            return lookups
        lookup = match_lookup(value)
        if lookup is not None and lookup.node.outputs[0] is value and find_only_consumer(value) is node:
            lookups.append(_FoldableLookup(lookup, position, first))
        first += width
    return lookups


def _is_small(lookup: EmbeddingLookup, hidden: int) -> bool:
    if get_bits(lookup.table) != 32:
        return False
    has_one_consumer = is_only_looked_up(lookup.table) and len(list(lookup.table.uses())) == 1
    return has_one_consumer and lookup.rows * hidden <= lookup.rows * lookup.width + lookup.width * hidden


def _fold(graph: ir.Graph, concat: ir.Node, layer: Linear, foldable: _FoldableLookup) -> None:
    lookup, last = foldable.lookup, foldable.first + foldable.lookup.width
    matrix, bias, table = layer.matrix(), layer.vector(), get_constant_array(lookup.table)
    assert table is not None
    folded = table.astype(np.float64) @ matrix[foldable.first : last] + (0.0 if bias is None else bias)
    remaining = np.delete(matrix, np.s_[foldable.first : last], axis=0)
    weight = add_initializer(
        graph,
        f"{layer.weight.name}_rest",
        np.ascontiguousarray(remaining.T if layer.transposed else remaining, dtype=np.float32),
    )
    copy_bits(layer.weight, weight)
    rows = add_initializer(graph, f"{lookup.table.name}_folded", folded.astype(np.float32))
    gather = ir.node("Gather", [rows, lookup.node.inputs[1]], attributes={"axis": 0})
    operands = [*concat.inputs[: foldable.position], *concat.inputs[foldable.position + 1 :]]
    shorter_concat = ir.node("Concat", operands, attributes={"axis": 1})
    product = ir.node(
        "Gemm",
        [shorter_concat.outputs[0], weight, gather.outputs[0]],
        attributes={"transB": int(layer.transposed)},
    )
    replace_node(graph, layer.node, [gather, shorter_concat, product])
