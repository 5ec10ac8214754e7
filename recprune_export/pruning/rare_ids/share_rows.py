"""`share_rows`: the same program with smaller tables, ids that lost their row reading the shared one."""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, fx

from recprune_export.errors import PruningError
from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import argument
from recprune_export.program.program import Program
from recprune_export.pruning.rare_ids.choose_rows import IdCounts
from recprune_export.pruning.rare_ids.find_tables import PrunableTable, find_prunable_tables, get_ids
from recprune_export.pruning.rare_ids.row_plan import RowPlan

aten = torch.ops.aten

SMOOTHING = 0.5  # added to each count, so that ids never shown have a say (Krichevsky and Trofimov 1981)
_CHUNK = 1 << 16  # rows


def share_rows(program: Program, rows: Sequence[RowPlan], counts: IdCounts) -> Program:
    """Return a program in which the ids that `rows` does not keep share a row; `program` is left as it is.

    A lookup of ids becomes a lookup of `remap[ids]`, int32, with as many entries as the table had rows; the signature
    stays as it was. Parameters of which nothing goes are shared with `program`.

    Raises `PruningError` where the plan was made for another program, or a table is not only looked up.
    """
    if not rows:
        return program
    tables = find_planned_tables(program, rows)
    module = program.module
    graph = copy.deepcopy(module.graph)
    copied = dict(zip(module.graph.nodes, graph.nodes, strict=True))
    tensors: dict[str, Tensor] = {str(n.target): tensor_at(module, str(n.target)) for n in _constants(graph)}
    for part in rows:
        remap, name = part.remap(), "remap_" + part.table.replace(".", "_")
        tensors[part.table] = _smaller(tensors[part.table], part, counts.get(part.table))
        tensors[name] = torch.from_numpy(remap)
        for lookup in tables[part.table].lookups:
            _redirect(graph, copied[lookup], name, remap)
    return Program.from_graph(graph, tensors, program.signature)


def find_planned_tables(program: Program, rows: Sequence[RowPlan]) -> Mapping[str, PrunableTable]:
    """Return the tables of a program, made sure that `rows` fits them.

    Raises `PruningError`.
    """
    tables, refused = find_prunable_tables(program)
    reasons = {refusal.table: refusal.reason for refusal in refused}
    for part in rows:
        part.check()
        table = tables.get(part.table)
        if table is None:
            reason = reasons.get(part.table, "this model has no such table: make a plan for this model")
            raise PruningError(f"The plan removes rows of '{part.table}', but {reason}.")
        if table.rows != part.rows:
            raise PruningError(
                f"The plan removes rows of '{part.table}' ({part.rows} rows), but in this model it has {table.rows}: "
                "make a plan for this model."
            )
        lost = sorted(id_ for id_ in table.reserved_ids if not any(first <= id_ <= last for first, last in part.keep))
        if lost:
            raise PruningError(
                f"The plan removes the row of id {lost[0]} of '{part.table}', which stands for padding or unknown values: "
                "keep it."
            )
    return tables


def compute_shared_row(table: Tensor, row_plan: RowPlan, count: np.ndarray | None) -> Tensor:
    """Return the mean of the rows that go, each weighted by how often it is shown, [dim].

    Without counts all weigh the same. Rows are taken in pieces, for tables may be larger than memory.
    """
    gone = np.flatnonzero(row_plan.shared_mask())
    weights = np.full(len(gone), SMOOTHING) if count is None else count[gone] + SMOOTHING
    total = torch.zeros(table.shape[1], dtype=torch.float64)
    for start in range(0, len(gone), _CHUNK):
        piece = torch.from_numpy(gone[start : start + _CHUNK])
        total += torch.from_numpy(weights[start : start + _CHUNK]) @ table.detach()[piece].double()
    return (total / weights.sum()).to(table.dtype)


def _smaller(table: Tensor, part: RowPlan, count: np.ndarray | None) -> torch.nn.Parameter:
    kept = table.detach()[torch.from_numpy(part.retained_ids())]
    smaller = torch.cat([kept, compute_shared_row(table, part, count).unsqueeze(0)])
    return torch.nn.Parameter(smaller, requires_grad=table.requires_grad)


def _redirect(graph: fx.Graph, lookup: fx.Node, remap_name: str, remap: np.ndarray) -> None:
    ids = get_ids(lookup)
    with graph.inserting_before(lookup):
        rows = graph.call_function(aten.index.Tensor, (graph.get_attr(remap_name), [ids]))
    if lookup.target is aten.index.Tensor:  # ONNX takes int32 in a Gather alone
        lookup.target, lookup.args = aten.embedding.default, (lookup.args[0], rows)
        return
    padding = argument(lookup, "padding_idx")
    moved = int(remap[padding]) if padding >= 0 else padding
    lookup.args = (lookup.args[0], rows, moved, *lookup.args[3:])


def _constants(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "get_attr"]
