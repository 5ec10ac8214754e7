"""The population stability index, a distance of two distributions over the same cells."""

from collections.abc import Callable
from functools import partial
from math import sqrt
from statistics import NormalDist

import numpy as np

from recprune_export.evidence import Estimate

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
    "Statistical properties of the population stability index"); the quantile is that of Wilson and Hilferty 1931.
    """
    n, m = float(expected.sum()), float(actual.sum())
    degrees = int(((expected + actual) > 0).sum()) - 1
    if degrees < 1 or n == 0 or m == 0:
        return 0.0
    spread = 2.0 / (9.0 * degrees)
    z95 = 1.6449  # the same quantile of the normal distribution
    return (1.0 / n + 1.0 / m) * degrees * (1.0 - spread + z95 * sqrt(spread)) ** 3


def psi_interval(expected: np.ndarray, actual: np.ndarray) -> Estimate:
    """Return the index of the two distributions, without the part that sampling adds, and its 95 % interval.

    The index of two samples is about (1/n + 1/m) times a noncentral χ², whose noncentrality is the index of the distributions
    divided by the same factor. The interval contains each index for which the index of the samples is within its 95 % range; the half
    counts that `psi` adds make the index smaller, so the upper end is raised by the same amount. Samples that differ less than expected
    by chance get the upper end of samples that differ as expected (a power-constrained limit: Cowan et al. 2011), because an upper end of
    0 would claim certainty. With fewer than five rows per cell, the upper end is still too low in up to 6 % of cases, instead of 2.5 %.
    """
    n, m = float(expected.sum()), float(actual.sum())
    degrees = int(((expected + actual) > 0).sum()) - 1
    if degrees < 1 or n == 0 or m == 0:
        return Estimate(0.0, 0.0, 0.0)
    factor = 1.0 / n + 1.0 / m
    statistic = psi(expected, actual) / factor
    low, high = (
        _solve_decreasing(partial(_noncentral_chi_square, value, degrees), tail, value)
        for value, tail in ((statistic, 0.975), (max(statistic, float(degrees)), 0.025))
    )
    added = min(0.5 * (degrees + 1) * factor, 0.5)  # the share of half counts among all
    return Estimate(factor * min(max(statistic - degrees, low), high), factor * low, factor * high / (1.0 - added) ** 2)


def _noncentral_chi_square(value: float, degrees: int, center: float) -> float:
    """Return the probability of less than `value` under a noncentral χ² (Sankaran 1963, as in Johnson and Kotz, chapter 29)."""
    mean = degrees + center
    power = 1.0 - 2.0 * mean * (degrees + 3.0 * center) / (3.0 * (degrees + 2.0 * center) ** 2)
    spread = (degrees + 2.0 * center) / mean**2
    m = (power - 1.0) * (1.0 - 3.0 * power)
    expectation = 1.0 + power * spread * (power - 1.0 - (2.0 - power) * m * spread / 2.0)
    deviation = power * sqrt(2.0 * spread) * (1.0 + m * spread / 2.0)
    return NormalDist().cdf(((value / mean) ** power - expectation) / deviation)


def _solve_decreasing(function: Callable[[float], float], target: float, scale: float) -> float:
    """Return the non-negative number at which a decreasing function reaches `target`; 0 if it begins below."""
    if function(0.0) <= target:
        return 0.0
    low, high = 0.0, max(scale, 1.0)
    while function(high) > target:
        high *= 2.0
    for _ in range(50):
        middle = (low + high) / 2.0
        low, high = (middle, high) if function(middle) > target else (low, middle)
    return high
