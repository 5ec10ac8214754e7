"""`Occurrences`: the number of rows with each of some values, so that a check of the values can count rows."""

from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True)
class Occurrences:
    """N values, each in `counts` rows, int [N]; `first_rows`, int [N], is the first row of each, counted from 0.

    >>> values = Occurrences(np.array([3, 1]), np.array([0, 2]))
    >>> values.total, values.count(np.array([True, False])), values.first_row(np.array([1]))
    (4, 3, 2)
    """

    counts: np.ndarray
    first_rows: np.ndarray
    is_once: bool = False

    @classmethod
    def once(cls, count: int) -> Self:
        """Return the occurrences of values that are one row each."""
        return cls(np.broadcast_to(np.int64(1), count), np.arange(count), is_once=True)

    @property
    def total(self) -> int:
        """The number of rows."""
        return int(self.counts.sum())

    @property
    def weights(self) -> np.ndarray | None:
        """The counts; None if each value is one row."""
        return None if self.is_once else self.counts

    def count(self, chosen: np.ndarray) -> int:
        """Return the number of rows of the `chosen` values, a mask or indices."""
        return int(self.counts[chosen].sum())

    def first_row(self, chosen: np.ndarray) -> int:
        """Return the first row of the `chosen` values, a mask or indices."""
        return int(self.first_rows[chosen].min())
