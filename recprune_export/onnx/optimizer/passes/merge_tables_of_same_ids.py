"""Tables that are read by the same ids, merged into one."""

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import add_initializer, find_nodes, get_axis, get_bits, get_rank, replace_uses
from recprune_export.onnx.mapped_tensors import concatenate_tables
from recprune_export.onnx.optimizer.embedding_lookups import is_only_looked_up


def merge_tables_of_same_ids(model: ir.Model) -> int:
    """Look up two vectors of an id at once.

    Before: `Gather(T, ids)` and `Gather(U, ids)`, T [N, D] and U [N, E] of one type, read by nothing else, such as the
    first-order weights and the embeddings of DeepFM. Tables with planned bits are not merged, because the numbers of a row would share a
    scale that suits neither table. After: one table [N, D + E], one Gather, followed by a Split. A cache miss costs the same for a row of
    any length.

    Returns the number of merged tables.
    """
    graph = model.graph
    lookups_by_ids: dict[tuple[ir.Value, int, ir.DataType | None], list[ir.Node]] = {}
    for node in find_nodes(graph, "Gather"):
        table, ids = node.inputs
        if table is not None and ids is not None and _is_unshared_table(node, table) and ids.const_value is None:
            lookups_by_ids.setdefault((ids, int(table.shape[0]), table.dtype), []).append(node)  # type: ignore[index, arg-type]
    groups = [lookups for lookups in lookups_by_ids.values() if len(lookups) > 1]
    for lookups in groups:
        _merge_tables(graph, lookups)
    return len(groups)


def _is_unshared_table(node: ir.Node, table: ir.Value) -> bool:
    if table.const_value is None or get_bits(table) != 32 or get_rank(table) != 2 or get_axis(node, 2) != 0:
        return False
    return table.dtype is not None and is_only_looked_up(table) and len(list(table.uses())) == 1


def _merge_tables(graph: ir.Graph, lookups: list[ir.Node]) -> None:
    tables = [table for node in lookups if (table := node.inputs[0]) is not None]
    ids = lookups[0].inputs[1]
    name = f"{lookups[0].outputs[0].name}_joined"
    widths = [table.shape[1] for table in tables if table.shape is not None]
    gather = ir.node("Gather", [concatenate_tables(graph, name, tables, axis=1), ids], attributes={"axis": 0})
    sizes = add_initializer(graph, f"{name}_widths", np.array(widths))
    split = ir.node("Split", [gather.outputs[0], sizes], attributes={"axis": -1}, num_outputs=len(lookups))
    graph.insert_before(lookups[0], [gather, split])
    for node, piece in zip(lookups, split.outputs, strict=True):
        before = node.outputs[0]
        piece.name, piece.shape, piece.type = before.name, before.shape, before.type
        replace_uses(before, piece)
        graph.remove(node, safe=True)
