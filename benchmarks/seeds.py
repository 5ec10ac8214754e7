"""Means over a few seeds, and their intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Two-sided 95 % of Student's t, by degrees of freedom.
STUDENT = {1: 12.71, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True)
class Mean:
    """The mean over `seeds`, and the half-width of its 95 % interval: NaN for one seed."""

    value: float
    half: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.value:+.4f}" + (" (one seed)" if self.seeds == 1 else f" ± {self.half:.4f}")


def mean_of(changes: Sequence[float] | np.ndarray) -> Mean:
    """Return the mean of what was measured once with each seed, such as differences paired by seed.

    >>> str(mean_of([0.001, 0.002, 0.003])), str(mean_of([0.001]))
    ('+0.0020 ± 0.0025', '+0.0010 (one seed)')
    """
    values = np.asarray(changes, dtype=np.float64)
    n = len(values)
    half = STUDENT[n - 1] * values.std(ddof=1) / math.sqrt(n) if n > 1 else math.nan
    return Mean(float(values.mean()), float(half), n)
