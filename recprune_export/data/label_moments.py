"""`LabelMoments`: mean and standard deviation of a label, from sums over batches."""

from dataclasses import dataclass
from math import nan, sqrt

import numpy as np

from recprune_export.data.row_source import RowSource

BATCH_ROWS = 1 << 16


@dataclass
class LabelMoments:
    """Of the rows that have a label: their number, the mean, and the sum of the squared distances from it.

    >>> moments = LabelMoments()
    >>> moments.add(np.array([1.0, np.nan]))
    >>> moments.add(np.array([3.0, 5.0]))
    >>> moments.count, moments.mean, round(moments.deviation, 6)
    (3, 3.0, 1.632993)
    """

    count: int = 0
    mean: float = nan
    squares: float = 0.0

    def add(self, label: np.ndarray) -> None:
        """Add the values of a batch, [B], NaN where missing (Chan et al. 1983, "Algorithms for Computing the Sample Variance")."""
        known = label[~np.isnan(label)].astype(np.float64)
        if len(known):
            self.merge(LabelMoments(len(known), float(known.mean()), float(known.var() * len(known))))

    def merge(self, other: "LabelMoments") -> None:
        """Add the moments of other rows."""
        if not self.count or not other.count:
            chosen = self if self.count else other
            self.count, self.mean, self.squares = chosen.count, chosen.mean, chosen.squares
            return
        count, distance = self.count + other.count, other.mean - self.mean
        self.squares += other.squares + distance**2 * self.count * other.count / count
        self.mean += distance * other.count / count
        self.count = count

    @property
    def deviation(self) -> float:
        """The standard deviation, 0 for a constant."""
        return sqrt(self.squares / self.count) if self.count else nan


def summarize_labels(rows: RowSource) -> dict[str, LabelMoments]:
    """Return the moments of each label. Memory: a batch of rows."""
    moments: dict[str, LabelMoments] = {}
    for batch in rows.batches(BATCH_ROWS):
        for label, values in batch.labels.items():
            moments.setdefault(label, LabelMoments()).add(values)
    return moments
