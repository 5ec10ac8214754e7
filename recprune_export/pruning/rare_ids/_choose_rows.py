"""Choice of the ids that share a row: the rarest in the training data."""

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recprune_export.distributed.gradients import sum_tensors
from recprune_export.program.program import Program
from recprune_export.pruning.pruning_constants import RARE_LOOKUP_FRACTION
from recprune_export.pruning.rare_ids.find_tables import IdReader, PrunableTable
from recprune_export.pruning.rare_ids.row_plan import RowPlan

RowFraction = float | Literal["auto"]
IdCounts = Mapping[str, np.ndarray]  # table -> how often each of its ids is looked up, int64 [rows]


def count_ids(program: Program, tables: Iterable[PrunableTable], requests: Iterable[Mapping[str, Tensor]]) -> IdCounts:
    """Count how often each id of each table is looked up; with several processes, each has its share of the requests."""
    tables = list(tables)
    counts = {table.name: torch.zeros(table.rows, dtype=torch.int64) for table in tables}
    read = IdReader(program, tables)
    for request in requests:
        for name, ids in read(request):
            counts[name] += torch.bincount(ids.reshape(-1), minlength=len(counts[name]))
    sum_tensors(counts.values())
    return {name: count.numpy() for name, count in counts.items()}


def choose_rows(tables: Iterable[PrunableTable], counts: IdCounts, fraction: RowFraction) -> tuple[RowPlan, ...]:
    """Return the rows to keep in each table that loses any.

    A number is the fraction of the rows of all tables to remove, the least frequent first. With "auto", each table
    loses the rarest ids that together make `RARE_LOOKUP_FRACTION` of its lookups. Of equally frequent ids the highest is
    removed first, because vocabularies number frequent values first. A table is not pruned if the remap is larger than the removed rows.
    """
    tables = list(tables)
    rare = _rarest(tables, counts, fraction) if fraction != "auto" else {t.name: _negligible(t, counts) for t in tables}
    plans = (
        RowPlan.from_ids(table.name, table.rows, np.setdiff1d(np.arange(table.rows), rare[table.name]))
        for table in tables
        if (len(rare[table.name]) - 1) * table.dim > table.rows
    )
    return tuple(plans)


def _by_frequency(table: PrunableTable, counts: IdCounts) -> np.ndarray:
    """Return the ids that may share a row, the rarest first."""
    ids = np.setdiff1d(np.arange(table.rows), list(table.reserved_ids))[::-1]
    return ids[np.argsort(counts[table.name][ids], kind="stable")]


def _negligible(table: PrunableTable, counts: IdCounts) -> np.ndarray:
    ids = _by_frequency(table, counts)
    cumulative = counts[table.name][ids].cumsum()
    return ids[cumulative <= RARE_LOOKUP_FRACTION * cumulative[-1]] if len(ids) else ids


def _rarest(tables: list[PrunableTable], counts: IdCounts, share: float) -> dict[str, np.ndarray]:
    """Return the rarest ids by table; of equally rare ids those of the largest table come first."""
    order = sorted(range(len(tables)), key=lambda t: -tables[t].rows)
    ids = [_by_frequency(tables[t], counts) for t in order]
    frequency = np.concatenate([counts[tables[t].name][i] for t, i in zip(order, ids, strict=True)])
    owner = np.repeat(order, [len(i) for i in ids])
    removed = owner[np.argsort(frequency, kind="stable")][: int(share * sum(table.rows for table in tables))]
    return {tables[t].name: i[: int((removed == t).sum())] for t, i in zip(order, ids, strict=True)}
