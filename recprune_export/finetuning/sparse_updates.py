"""Sparse updates of embedding tables: the cost of a step depends on the rows of its batch, not on the size of the table.

The gradient of a table that is only looked up is zero in all rows but those of the batch. With its `sparse` argument `aten.embedding`
returns only these rows, and `SparseAdam` changes only these: the lazy variant of Adam, in which the moments of a row change only with its
weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import fx

from recprune_export.finetuning.finetuning_constants import ROWS_PER_ID
from recprune_export.program.nodes import argument
from recprune_export.program.program import Program, sample_request_rows
from recprune_export.program.recorder import record_values

aten = torch.ops.aten

TableLookups = Mapping[str, Sequence[fx.Node]]  # by table


def find_sparse_update_tables(program: Program, batch_size: int) -> frozenset[str]:
    """Return the tables with at least `ROWS_PER_ID` rows for each id of a batch that are only used by lookups.

    In shorter tables, sorting the rows of a batch costs more than it saves.
    """
    lookups = find_table_lookups(program)
    ids = _ids_per_request(program, lookups)
    rows = {name: len(table) for name, table in program.parameters().items() if name in lookups}
    return frozenset(name for name, count in rows.items() if count >= ROWS_PER_ID * ids[name] * batch_size)


def find_table_lookups(program: Program) -> TableLookups:
    """Return the lookups of each trainable table without other uses, whose gradient can be sparse in the rows.

    Uses through which no gradient passes do not count.
    """
    users: dict[str, list[fx.Node]] = {}
    for node in program.module.graph.nodes:
        if node.op == "get_attr":
            trained = (user for user in node.users if user.target is not aten.detach.default)
            users.setdefault(str(node.target), []).extend(trained)
    tables = {name for name, parameter in program.parameters().items() if parameter.requires_grad}
    return {name: nodes for name, nodes in users.items() if name in tables and all(_is_lookup(n, name) for n in nodes)}


@contextmanager
def sparse_gradients(program: Program, tables: frozenset[str]) -> Iterator[None]:
    """Make the gradients of `tables` sparse in the rows inside the block."""
    lookups = [node for name, nodes in find_table_lookups(program).items() if name in tables for node in nodes]
    originals = [(node, node.args, node.kwargs) for node in lookups]
    for node in lookups:
        node.kwargs = {**node.kwargs, "sparse": True}
        node.args = node.args[:4]  # `sparse` is the fifth argument
    program.module.recompile()
    try:
        yield
    finally:
        for node, args, kwargs in originals:
            node.args, node.kwargs = args, kwargs
        program.module.recompile()


def _is_lookup(node: fx.Node, table: str) -> bool:
    if node.target is not aten.embedding.default or argument(node, "scale_grad_by_freq"):
        return False
    ids = argument(node, "indices")
    return not (isinstance(ids, fx.Node) and ids.op == "get_attr" and str(ids.target) == table)


def _ids_per_request(program: Program, lookups: TableLookups) -> Mapping[str, float]:
    batch = 2
    ids = {name: [argument(node, "indices").name for node in nodes] for name, nodes in lookups.items()}
    request = sample_request_rows(program.signature, batch)
    values = record_values(program, request, {node for nodes in ids.values() for node in nodes})
    return {name: sum(values[node].numel() for node in nodes) / batch for name, nodes in ids.items()}
