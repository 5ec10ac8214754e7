"""`RowPlan`: the rows of a table to keep. All others become one shared row after them."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np

from recprune_export.codec import DictMixin
from recprune_export.errors import PruningError

IdInterval = tuple[int, int]  # first and last id, both inclusive


@dataclass(frozen=True)
class RowPlan(DictMixin):
    """`keep`: the ids, of `rows`, that keep their row, as ascending runs.

    >>> row_plan = RowPlan.from_ids("item.weight", 6, [4, 0, 1])
    >>> row_plan.keep, row_plan.remap().tolist(), row_plan.removed
    (((0, 1), (4, 4)), [0, 1, 3, 3, 2, 3], 3)
    """

    table: str
    rows: int
    keep: tuple[IdInterval, ...]

    @classmethod
    def from_ids(cls, table: str, rows: int, ids: Iterable[int] | np.ndarray) -> Self:
        """Make a plan from the ids to keep, in any order."""
        retained = np.unique(np.fromiter(ids, dtype=np.int64))
        ends = np.flatnonzero(np.diff(retained) != 1)
        firsts, lasts = retained[np.r_[0, ends + 1]], retained[np.r_[ends, -1]]
        return cls(table, rows, tuple(zip(firsts.tolist(), lasts.tolist(), strict=True)))

    @property
    def retained_count(self) -> int:
        """The number of ids that keep their row."""
        return sum(last - first + 1 for first, last in self.keep)

    @property
    def removed(self) -> int:
        """The number of ids that share a row."""
        return self.rows - self.retained_count

    def retained_ids(self) -> np.ndarray:
        """Return the ids that keep their row, ascending, int64 [retained_count]."""
        return np.concatenate([np.arange(first, last + 1, dtype=np.int64) for first, last in self.keep])

    def shared_mask(self) -> np.ndarray:
        """Return for each id whether it shares a row, bool [rows]."""
        shared = np.ones(self.rows, dtype=bool)
        shared[self.retained_ids()] = False
        return shared

    def remap(self) -> np.ndarray:
        """Return for each id the row of the smaller table, int32 [rows]; `retained_count` is the shared row."""
        remap = np.full(self.rows, self.retained_count, dtype=np.int32)
        remap[self.retained_ids()] = np.arange(self.retained_count, dtype=np.int32)
        return remap

    def check(self) -> None:
        """Raise `PruningError` if the runs do not ascend within the table, or no row is kept, or none is removed."""
        ends = [-1, *itertools.chain.from_iterable(self.keep), self.rows]
        ordered = all(first <= last for first, last in self.keep)
        apart = all(before < after for before, after in zip(ends[::2], ends[1::2], strict=True))
        if not self.keep or not ordered or not apart or not self.removed:
            raise PruningError(
                f"The plan must keep between 1 and {self.rows - 1} rows of '{self.table}', as ascending runs [first, last] "
                f"of its ids 0 to {self.rows - 1}."
            )
