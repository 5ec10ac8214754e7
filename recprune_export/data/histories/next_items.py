"""Rows of histories and the item that follows each, in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recprune_export.data.encoding.input_encoding import HISTORY
from recprune_export.data.rows import Ragged, Rows

NEXT_ITEM = "next_item"


@dataclass(frozen=True)
class NextItemLists:
    """Histories, and the item that follows each, [N], 0 if it has no id."""

    histories: Ragged
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: np.ndarray) -> "NextItemLists":
        """Return the rows at `indices`."""
        return NextItemLists(self.histories.take(indices), self.targets[indices])

    @classmethod
    def concatenate(cls, lists: Sequence["NextItemLists"]) -> "NextItemLists":
        """Return the rows of all `lists`, one after the other."""
        return cls(Ragged.concatenate([one.histories for one in lists]), np.concatenate([one.targets for one in lists]))

    def pad(self, length: int) -> Rows:
        """Return requests of the last `length` items; unknown items, 0, are left out of a history.

        A ranking excludes all known items of the history.
        """
        known = self.histories.drop_zeros()
        targets = {NEXT_ITEM: self.targets.astype(np.int64)}
        return Rows({HISTORY: known.pad_left(length)}, targets, excluded_items=known)
