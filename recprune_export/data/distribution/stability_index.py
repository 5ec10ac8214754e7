"""The population stability index, a distance of two distributions over the same cells."""

from math import sqrt

import numpy as np

# The usual limits, from scorecards of banks: Siddiqi 2006, "Credit Risk Scorecards", system stability report. Below .1 no
# significant change, above .25 a significant shift.
NOTICEABLE, MAJOR = 0.1, 0.25


def psi(expected: np.ndarray, actual: np.ndarray) -> float:
    """Return Σ (a - e) ln(a / e) over the shares of each cell, from counts [cells].

    Half a count is added to every cell that is not empty in one of them, so that its logarithm is finite. The index is symmetric,
    never negative, and 0 for equal counts.

    >>> psi(np.array([50, 50]), np.array([50, 50])), round(psi(np.array([500, 500]), np.array([800, 200])), 2)
    (0.0, 0.41)
    """
    used = (expected + actual) > 0
    e, a = expected[used] + 0.5, actual[used] + 0.5
    e, a = e / e.sum(), a / a.sum()
    return float(((a - e) * np.log(a / e)).sum())


def psi_null_quantile(expected: np.ndarray, actual: np.ndarray) -> float:
    """Return the 95 % quantile of the index of two samples from one distribution.

    The index of such samples is about (1/n + 1/m) times a χ² of one degree less than there are cells (Yurdakul and Naranjo 2020,
    "Statistical properties of the population stability index"); its quantile by Wilson and Hilferty 1931.
    """
    n, m = float(expected.sum()), float(actual.sum())
    degrees = int(((expected + actual) > 0).sum()) - 1
    if degrees < 1 or n == 0 or m == 0:
        return 0.0
    spread = 2.0 / (9.0 * degrees)
    z95 = 1.6449  # the same quantile of the normal distribution
    return (1.0 / n + 1.0 / m) * degrees * (1.0 - spread + z95 * sqrt(spread)) ** 3
