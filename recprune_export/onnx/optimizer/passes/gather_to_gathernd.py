"""Lookups by GatherND, which overlaps the memory accesses of several rows."""

from collections.abc import Collection, Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import add_initializer, find_nodes, get_axis, get_dims, get_rank, replace_node
from recprune_export.onnx.optimizer._rewrite import SelectivePass
from recprune_export.onnx.optimizer.optimizer_constants import MIN_OVERLAPPED_IDS, MIN_UNCACHED_TABLE


def find_multi_id_gathers(model: ir.Model) -> Sequence[str]:
    """Return the names of the results of lookups with several ids for each row of the request."""
    return tuple(str(node.outputs[0].name) for node in find_nodes(model.graph, "Gather") if _is_lookup(node))


def _gather_to_gathernd(model: ir.Model, places: Collection[str]) -> int:
    """Look rows up by GatherND, which computes all addresses before it copies the first row.

    Before: `Gather(T, ids)` along axis 0, T constant, ids of int64 (GatherND takes no others) from the request. After:
    `GatherND(T, Unsqueeze(ids, -1))`, which refuses the same ids. Gather performs two divisions between rows, which takes too long for a
    CPU to prefetch the next row; GatherND waits for many rows at once. On machines with a small last-level cache, rows outside the caches
    take three fifths of the time (benchmarks/bench_lookups.py). Other rows are no faster, and the new axis costs a node: a table that
    fits in a cache is not changed. `gathernd_to_gather` is the inverse.

    Returns the number of rewritten lookups.
    """
    lookups = [
        node for node in find_nodes(model.graph, "Gather") if _is_lookup(node) and node.outputs[0].name in places
    ]
    for node in lookups:
        table, ids = node.inputs
        last = add_initializer(model.graph, f"{node.outputs[0].name}_each", np.array([-1]))
        indices = ir.node("Unsqueeze", [ids, last])
        replace_node(model.graph, node, [indices, ir.node("GatherND", [table, indices.outputs[0]])])
    return len(lookups)


gather_to_gathernd = SelectivePass("gather_to_gathernd", find_multi_id_gathers, _gather_to_gathernd)


def _is_lookup(node: ir.Node) -> bool:
    table, ids = node.inputs
    if table is None or ids is None or table.const_value is None or ids.const_value is not None:
        return False
    axes, shape = get_rank(table), get_dims(ids)
    if axes is None or get_axis(node, axes) != 0 or ids.dtype != ir.DataType.INT64 or shape is None:
        return False
    if table.const_value.nbytes < MIN_UNCACHED_TABLE:
        return False
    known = [size for size in shape[1:] if isinstance(size, int)]
    return len(known) < len(shape) - 1 or prod(known) >= MIN_OVERLAPPED_IDS
