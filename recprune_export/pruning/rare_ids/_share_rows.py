"""`share_rows`: replacement of the rows of rare ids by one shared row in each table."""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, fx

from recprune_export.errors import PruningError
from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import argument
from recprune_export.program.program import Program
from recprune_export.pruning.rare_ids._choose_rows import IdCounts
from recprune_export.pruning.rare_ids.find_tables import PrunableTable, find_prunable_tables, get_ids
from recprune_export.pruning.rare_ids.row_plan import RowPlan

aten = torch.ops.aten

SMOOTHING = 0.5  # added to each count, so that unseen ids have a weight (Krichevsky and Trofimov 1981)


def share_rows(program: Program, rows: Sequence[RowPlan], counts: IdCounts) -> Program:
    """Return a program in which the ids that `rows` does not keep share a row; `program` is not changed.

    A lookup of ids becomes a lookup of `remap[ids]`, int32, with as many entries as the table had rows; the signature is
    unchanged. Other parameters are shared with `program`. Memory: the smaller tables, and some 20 bytes for each row.

    Raises `PruningError` if the plan was made for another program, or a table is not only looked up.
    """
    if not rows:
        return program
    tables = find_planned_tables(program, rows)
    module = program.module
    graph = copy.deepcopy(module.graph)
    copied = dict(zip(module.graph.nodes, graph.nodes, strict=True))
    tensors: dict[str, Tensor] = {str(n.target): tensor_at(module, str(n.target)) for n in _constants(graph)}
    for row_plan in rows:
        remap, name = row_plan.remap(), "remap_" + row_plan.table.replace(".", "_")
        tensors[row_plan.table] = _smaller(tensors[row_plan.table], row_plan, counts.get(row_plan.table))
        tensors[name] = torch.from_numpy(remap)
        for lookup in tables[row_plan.table].lookups:
            _redirect(graph, copied[lookup], name, remap)
    return Program.from_graph(graph, tensors, program.signature)


def find_planned_tables(program: Program, rows: Sequence[RowPlan]) -> Mapping[str, PrunableTable]:
    """Return the prunable tables of a program after checking that `rows` fits them.

    Raises `PruningError` if it does not.
    """
    tables, unprunable = find_prunable_tables(program)
    reasons = {table.table: table.reason for table in unprunable}
    for row_plan in rows:
        row_plan.check()
        table = tables.get(row_plan.table)
        if table is None:
            reason = reasons.get(row_plan.table, "this model has no such table: make a plan for this model")
            raise PruningError(f"The plan removes rows of '{row_plan.table}', but {reason}.")
        if table.rows != row_plan.rows:
            raise PruningError(
                f"The plan removes rows of '{row_plan.table}' ({row_plan.rows} rows), but in this model it has {table.rows}: "
                "make a plan for this model."
            )
        removed = sorted(
            id_ for id_ in table.reserved_ids if not any(first <= id_ <= last for first, last in row_plan.keep)
        )
        if removed:
            raise PruningError(
                f"The plan removes the row of id {removed[0]} of '{row_plan.table}', which stands for padding or unknown values: "
                "keep it."
            )
    return tables


def compute_shared_row(table: Tensor, row_plan: RowPlan, count: np.ndarray | None) -> Tensor:
    """Return the mean of the removed rows, each weighted by its count, [dim].

    Without counts all rows have equal weight. Rows are read in chunks, because a table may be larger than memory.
    """
    chunk_rows = 1 << 16  # rows
    removed = np.flatnonzero(row_plan.shared_mask())
    weights = np.full(len(removed), SMOOTHING) if count is None else count[removed] + SMOOTHING
    total = torch.zeros(table.shape[1], dtype=torch.float64)
    for start in range(0, len(removed), chunk_rows):
        chunk = torch.from_numpy(removed[start : start + chunk_rows])
        total += torch.from_numpy(weights[start : start + chunk_rows]) @ table.detach()[chunk].double()
    return (total / weights.sum()).to(table.dtype)


def _smaller(table: Tensor, row_plan: RowPlan, count: np.ndarray | None) -> torch.nn.Parameter:
    retained = torch.from_numpy(row_plan.retained_ids())
    smaller = torch.empty((len(retained) + 1, *table.shape[1:]), dtype=table.dtype)
    torch.index_select(table.detach(), 0, retained, out=smaller[:-1])
    smaller[-1] = compute_shared_row(table, row_plan, count)
    return torch.nn.Parameter(smaller, requires_grad=table.requires_grad)


def _redirect(graph: fx.Graph, lookup: fx.Node, remap_name: str, remap: np.ndarray) -> None:
    ids = get_ids(lookup)
    with graph.inserting_before(lookup):
        rows = graph.call_function(aten.index.Tensor, (graph.get_attr(remap_name), [ids]))
    if lookup.target is aten.index.Tensor:  # of ONNX's operators only Gather takes int32 ids
        lookup.target, lookup.args = aten.embedding.default, (lookup.args[0], rows)
        return
    padding = argument(lookup, "padding_idx")
    moved = int(remap[padding]) if padding >= 0 else padding
    lookup.args = (lookup.args[0], rows, moved, *lookup.args[3:])


def _constants(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "get_attr"]
