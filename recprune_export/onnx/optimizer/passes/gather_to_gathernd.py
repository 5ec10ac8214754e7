"""Lookups whose rows are on their way from memory at the same time."""

from collections.abc import Collection, Sequence
from math import prod

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import add_initializer, find_nodes, get_axis, get_dims, get_rank, replace_node
from recprune_export.onnx.optimizer._rewrite import SelectivePass

FEWEST = 8  # ids in a row of the request; of fewer the new axis costs more at batch 1 than is gained at any other


def find_multi_id_gathers(model: ir.Model) -> Sequence[str]:
    """Name the results of the lookups of several ids for each row of the request in a table of the file."""
    return tuple(str(node.outputs[0].name) for node in find_nodes(model.graph, "Gather") if _is_lookup(node))


def _gather_to_gathernd(model: ir.Model, places: Collection[str]) -> int:
    """Look rows up by GatherND, which works out where all of them lie before it copies the first.

    Before: `Gather(T, ids)` along axis 0, T constant, ids of int64 (GatherND takes no others) that the request decides.
    After: `GatherND(T, Unsqueeze(ids, -1))`, which refuses the same ids. Gather divides twice between two rows, too long
    for a CPU to ask for the next row while it waits for one; here it waits for many together. Rows that no cache holds take
    three fifths of the time, others the same (benchmarks/bench_lookups.py), and the new axis costs a node. `gathernd_to_gather` is the way back.

    Returns the number of lookups that were rewritten.
    """
    chosen = [n for n in find_nodes(model.graph, "Gather") if _is_lookup(n) and n.outputs[0].name in places]
    for node in chosen:
        table, ids = node.inputs
        last = add_initializer(model.graph, f"{node.outputs[0].name}_each", np.array([-1]))
        each = ir.node("Unsqueeze", [ids, last])
        replace_node(model.graph, node, [each, ir.node("GatherND", [table, each.outputs[0]])])
    return len(chosen)


gather_to_gathernd = SelectivePass("overlap_lookups", find_multi_id_gathers, _gather_to_gathernd)


def _is_lookup(node: ir.Node) -> bool:
    table, ids = node.inputs
    if table is None or ids is None or table.const_value is None or ids.const_value is not None:
        return False
    axes, shape = get_rank(table), get_dims(ids)
    if axes is None or get_axis(node, axes) != 0 or ids.dtype != ir.DataType.INT64 or shape is None:
        return False
    known = [size for size in shape[1:] if isinstance(size, int)]
    return len(known) < len(shape) - 1 or prod(known) >= FEWEST
