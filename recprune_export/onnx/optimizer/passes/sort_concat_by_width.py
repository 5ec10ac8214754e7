"""Fields of one width next to each other, so that they can be looked up together."""

from collections import Counter
from itertools import groupby

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import find_nodes, find_only_consumer, replace_node
from recprune_export.onnx.optimizer.embedding_lookups import concatenates_rows, is_only_looked_up, match_lookup
from recprune_export.onnx.optimizer.linear_layers import Linear, match_linear, match_view, replace_weights


def sort_concat_by_width(model: ir.Model) -> int:
    """Sort what is joined before a linear layer by the widths of the tables.

    Before: `Gemm(Concat(…), W)`, also through a view, where lookups in tables of one width stand apart. After: the same
    operands, lookups of one width next to each other, the widest first, the rest behind; the rows of W in the new order.
    Joins that something else reads as well stay.

    Returns the number of joins that were sorted.
    """
    graph, sorted_joins = model.graph, 0
    for node in find_nodes(graph, "Concat"):
        layer = _reader(node) if concatenates_rows(node) else None
        widths = [_width(value) for value in node.inputs]
        order = sorted(range(len(widths)), key=lambda i: (widths[i] is None, -(widths[i] or 0)))
        if layer is None or not layer.owns_weight or not _gains(widths):
            continue
        sizes = [_row_size(value) for value in node.inputs]
        if None in sizes or sum(size or 0 for size in sizes) != layer.inputs:
            continue
        starts = np.cumsum([0, *sizes])
        rows = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in order])
        vector = layer.vector()
        replace_weights(graph, layer, layer.matrix()[rows], vector)
        join = ir.node(
            "Concat", [node.inputs[i] for i in order], attributes={"axis": node.attributes.get_int("axis", 0)}
        )
        replace_node(graph, node, [join])
        sorted_joins += 1
    return sorted_joins


def _reader(node: ir.Node) -> Linear | None:
    """The layer that alone reads a join, perhaps through a view."""
    value = node.outputs[0]
    while (user := find_only_consumer(value)) is not None and (view := match_view(user, value)) is not None:
        value = view
    layer = match_linear(user) if user is not None else None
    return layer if layer is not None and layer.operand is value and len(value.shape or ()) == 2 else None


def _width(value: ir.Value | None) -> int | None:
    lookup = match_lookup(value)
    return lookup.width if lookup is not None and is_only_looked_up(lookup.table) else None


def _gains(widths: list[int | None]) -> bool:
    """Whether lookups of some width stand in more than one place."""
    places = Counter(width for width, _ in groupby(widths) if width is not None)
    return any(count > 1 for count in places.values())


def _row_size(value: ir.Value | None) -> int | None:
    shape = None if value is None else value.shape
    if shape is None or not all(isinstance(size, int) for size in shape[1:]):
        return None
    return int(np.prod([int(size) for size in shape[1:]]))  # type: ignore[arg-type]
