"""`measure_labels`: mean, deviation and range of the labels of rows, which are read in pieces if there are many."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from recprune_export.data.row_source import RowSource
from recprune_export.data.rows import Rows

_PIECE_ROWS = 1 << 20


@dataclass(frozen=True)
class LabelMoments:
    """For the rows with a label: their number, mean and variance, the smallest and the largest label.

    >>> whole, parts = np.array([1.0, 2.0, 6.0]), [np.array([1.0, np.nan]), np.array([2.0, 6.0])]
    >>> (LabelMoments.of(parts[0]) + LabelMoments.of(parts[1])).mean == LabelMoments.of(whole).mean
    True
    """

    count: int = 0
    mean: float = 0.0
    variance: float = 0.0
    low: float = np.inf
    high: float = -np.inf

    @classmethod
    def of(cls, values: np.ndarray) -> "LabelMoments":
        """Return the moments of values, [N], NaN where one is missing."""
        known = values[~np.isnan(values)].astype(np.float64)
        if not len(known):
            return cls()
        return cls(len(known), float(known.mean()), float(known.var()), float(known.min()), float(known.max()))

    def __add__(self, other: "LabelMoments") -> "LabelMoments":
        if not self.count or not other.count:
            return self if self.count else other
        count, difference = self.count + other.count, other.mean - self.mean
        mean = self.mean + difference * other.count / count
        spread = self.count * self.variance + other.count * other.variance
        spread += difference * difference * self.count * other.count / count
        return LabelMoments(count, mean, spread / count, min(self.low, other.low), max(self.high, other.high))

    @property
    def deviation(self) -> float:
        """The standard deviation; 1 for a constant."""
        return float(np.sqrt(self.variance)) or 1.0


@dataclass(frozen=True)
class RowMoments:
    """The moments of each label, and whether any row has a weight above 0 (True without weights)."""

    labels: dict[str, LabelMoments]
    any_weight: bool


def measure_labels(rows: RowSource) -> RowMoments:
    """Measure the labels of rows. Time O(rows); memory: that of a piece of a million rows."""
    measured = RowMoments({}, any_weight=not len(rows))
    for piece in _read_pieces(rows):
        labels = {
            name: measured.labels.get(name, LabelMoments()) + LabelMoments.of(values)
            for name, values in piece.labels.items()
        }
        has_weight = piece.weights is None or bool(piece.weights.any())
        measured = replace(measured, labels=labels, any_weight=measured.any_weight or has_weight)
    return measured


def _read_pieces(rows: RowSource) -> Iterator[Rows]:
    if isinstance(rows, Rows) and type(rows) is Rows and len(rows) <= _PIECE_ROWS:
        yield rows
    else:
        yield from rows.batches(_PIECE_ROWS // 8)
