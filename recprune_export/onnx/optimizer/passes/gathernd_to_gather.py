"""`table[ids]` as a Gather."""

import onnx_ir as ir

from recprune_export.onnx.graph import find_nodes, find_producer, get_constant_integers, get_rank, replace_node


def gathernd_to_gather(model: ir.Model) -> int:
    """Replace an index into the first axis by a Gather.

    Before: `GatherND(T, Unsqueeze(i, last axis))`, without batch axes, which is how the exporter writes `T[i]`. After:
    `Gather(T, i)`, which refuses the same ids, takes any integer type, and is a lookup to all other passes.

    Returns the number of rewritten lookups.
    """
    changed = 0
    for node in find_nodes(model.graph, "GatherND"):
        index = find_producer(node.inputs[1], "Unsqueeze")
        if index is None or node.attributes.get_int("batch_dims", 0) != 0:
            continue
        ids, axes = index.inputs[0], get_constant_integers(index.inputs[1])
        if ids is not None and axes is not None and axes in ([-1], [get_rank(ids)]):
            replace_node(model.graph, node, [ir.node("Gather", [node.inputs[0], ids], attributes={"axis": 0})])
            changed += 1
    return changed
