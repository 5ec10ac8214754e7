"""Which ids share a row: those that training rows show least."""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recprune_export.program.program import Program
from recprune_export.pruning.rare_ids.find_tables import IdReader, PrunableTable
from recprune_export.pruning.rare_ids.row_plan import RowPlan

RowFraction = float | Literal["auto"]
IdCounts = Mapping[str, np.ndarray]  # table -> how often each of its ids is looked up, int64 [rows]
RARE_LOOKUP_FRACTION = 0.01  # of the lookups of a table: what the ids that "auto" gives up make together


def count_ids(program: Program, tables: Iterable[PrunableTable], requests: Iterable[Mapping[str, Tensor]]) -> IdCounts:
    """Count how often each id of each table is looked up. A sum over requests, so shards can be added."""
    tables = list(tables)
    counts = {table.name: torch.zeros(table.rows, dtype=torch.int64) for table in tables}
    read = IdReader(program, tables)
    for request in requests:
        for name, ids in read(request):
            counts[name] += torch.bincount(ids.reshape(-1), minlength=len(counts[name]))
    return {name: count.numpy() for name, count in counts.items()}


def choose_rows(tables: Iterable[PrunableTable], counts: IdCounts, fraction: RowFraction) -> tuple[RowPlan, ...]:
    """Return which rows stay in each table that loses any.

    With a number that share of the rows of all tables goes, the least frequent first, whatever table they are in. With
    "auto" each table gives up the rarest ids that together are `RARE_LOOKUP_FRACTION` of its lookups. Of ids that are equally frequent
    the highest goes first: vocabularies number the frequent values first. A table stays whole where less goes than the
    remap takes.
    """
    tables = list(tables)
    rare = _rarest(tables, counts, fraction) if fraction != "auto" else {t.name: _negligible(t, counts) for t in tables}
    parts = (
        RowPlan.from_ids(table.name, table.rows, np.setdiff1d(np.arange(table.rows), rare[table.name]))
        for table in tables
        if (len(rare[table.name]) - 1) * table.dim > table.rows
    )
    return tuple(parts)


def _by_frequency(table: PrunableTable, counts: IdCounts) -> np.ndarray:
    """The ids that may share a row, the rarest first."""
    ids = np.setdiff1d(np.arange(table.rows), list(table.reserved_ids))[::-1]
    return ids[np.argsort(counts[table.name][ids], kind="stable")]


def _negligible(table: PrunableTable, counts: IdCounts) -> np.ndarray:
    ids = _by_frequency(table, counts)
    seen = counts[table.name][ids].cumsum()
    return ids[seen <= RARE_LOOKUP_FRACTION * seen[-1]] if len(ids) else ids


def _rarest(tables: list[PrunableTable], counts: IdCounts, share: float) -> dict[str, np.ndarray]:
    """Of equally rare ids those of the largest table go first."""
    order = sorted(range(len(tables)), key=lambda t: -tables[t].rows)
    ids = [_by_frequency(tables[t], counts) for t in order]
    frequency = np.concatenate([counts[tables[t].name][i] for t, i in zip(order, ids, strict=True)])
    owner = np.repeat(order, [len(i) for i in ids])
    gone = owner[np.argsort(frequency, kind="stable")][: int(share * sum(table.rows for table in tables))]
    return {tables[t].name: i[: int((gone == t).sum())] for t, i in zip(order, ids, strict=True)}
