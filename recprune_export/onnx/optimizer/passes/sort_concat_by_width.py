"""Fields of one width placed next to each other, so that their tables can be fused."""

from collections import Counter
from itertools import groupby

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import find_nodes, find_only_consumer, replace_node
from recprune_export.onnx.optimizer.embedding_lookups import concatenates_rows, is_only_looked_up, match_lookup
from recprune_export.onnx.optimizer.linear_layers import Linear, match_linear, match_view, replace_weights


def sort_concat_by_width(model: ir.Model) -> int:
    """Sort the operands of a Concat before a linear layer by the widths of their tables, and by their planned bits.

    Before: `Gemm(Concat(…), W)`, also through a view, where lookups in tables of one width are not adjacent. After: the
    same operands, lookups of one width adjacent, the widest first, other operands last; the rows of W in the new order.
    Concats with other consumers are not changed.

    Returns the number of sorted Concats.
    """
    graph, sorted_joins = model.graph, 0
    for node in find_nodes(graph, "Concat"):
        layer = _find_consuming_layer(node) if concatenates_rows(node) else None
        kinds = [_get_table_kind(value) for value in node.inputs]
        order = sorted(range(len(kinds)), key=lambda i: _order_of_kind(kinds[i]))
        if layer is None or not layer.owns_weight or not _has_separated_kinds(kinds):
            continue
        sizes = [_count_row_elements(value) for value in node.inputs]
        if None in sizes or sum(size or 0 for size in sizes) != layer.inputs:
            continue
        starts = np.cumsum([0, *sizes])
        rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in order])
        vector = layer.vector()
        replace_weights(graph, layer, layer.matrix()[rows], vector)
        sorted_concat = ir.node(
            "Concat", [node.inputs[i] for i in order], attributes={"axis": node.attributes.get_int("axis", 0)}
        )
        replace_node(graph, node, [sorted_concat])
        sorted_joins += 1
    return sorted_joins


def _find_consuming_layer(node: ir.Node) -> Linear | None:
    """Return the layer that is the only consumer of a Concat, perhaps through a view."""
    value = node.outputs[0]
    while (user := find_only_consumer(value)) is not None and (view := match_view(user, value)) is not None:
        value = view
    layer = match_linear(user) if user is not None else None
    return layer if layer is not None and layer.operand is value and len(value.shape or ()) == 2 else None


def _get_table_kind(value: ir.Value | None) -> tuple[int, int] | None:
    """Return the width and the planned bits of the table in which a value is looked up; None for another value."""
    lookup = match_lookup(value)
    return lookup.kind if lookup is not None and is_only_looked_up(lookup.table) else None


def _order_of_kind(kind: tuple[int, int] | None) -> tuple[int, int]:
    """Return the key that sorts wide tables first, those of many bits first among them, and other operands last."""
    return (0, 0) if kind is None else (-kind[0], -kind[1])


def _has_separated_kinds(kinds: list[tuple[int, int] | None]) -> bool:
    """Return whether lookups of some kind are not adjacent."""
    places = Counter(kind for kind, _ in groupby(kinds) if kind is not None)
    return any(count > 1 for count in places.values())


def _count_row_elements(value: ir.Value | None) -> int | None:
    shape = None if value is None else value.shape
    if shape is None or not all(isinstance(size, int) for size in shape[1:]):
        return None
    return int(np.prod([int(size) for size in shape[1:]]))  # type: ignore[arg-type]
