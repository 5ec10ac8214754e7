"""`fit_monotone`: fit estimates that must increase, such as the speed-up over sparsity, together."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from recprune_export.evidence import Estimate
from recprune_export.row_resolution import STANDARD_ERRORS, estimate_with_error


@dataclass(frozen=True)
class _Pool:
    """Neighboring estimates with one common value: their mean, weighted by the inverse of the variances."""

    mean: float
    weight: float  # sum of the inverse variances
    spread: float  # sum of the squared distances from the mean, in standard errors
    count: int

    def join(self, other: "_Pool") -> "_Pool":
        weight = self.weight + other.weight
        mean = (self.weight * self.mean + other.weight * other.mean) / weight
        between = self.weight * other.weight / weight * (self.mean - other.mean) ** 2
        return _Pool(mean, weight, self.spread + other.spread + between, self.count + other.count)

    @property
    def estimate(self) -> Estimate:
        # Values that differ by more than their intervals explain have a wider interval (Birge 1932).
        excess = 1.0 if self.count == 1 else max(1.0, sqrt(self.spread / (self.count - 1)))
        return estimate_with_error(self.mean, excess / sqrt(self.weight))


def fit_monotone(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Return the nearest non-decreasing estimates, in the given order; O(n).

    Neighbors in the wrong order get one common value (pool adjacent violators: Barlow et al. 1972, "Statistical Inference
    under Order Restrictions", section 1.2). An end of an interval is bounded by those of its neighbors as well: a value is at
    least the certain lower bound of an earlier one, and at most the certain upper bound of a later one.

    >>> fitted = fit_monotone([Estimate(1.0, 0.9, 1.1), Estimate(1.5, 1.4, 1.6), Estimate(1.4, 1.3, 1.5)])
    >>> [round(e.estimate, 2) for e in fitted]
    [1.0, 1.45, 1.45]
    """
    pools: list[_Pool] = []
    for estimate in estimates:
        error = max(estimate.resolution / STANDARD_ERRORS, 1e-12)
        pools.append(_Pool(estimate.estimate, error**-2, 0.0, 1))
        while len(pools) > 1 and pools[-2].mean >= pools[-1].mean:
            last = pools.pop()
            pools[-1] = pools[-1].join(last)
    fitted = [pool.estimate for pool in pools for _ in range(pool.count)]
    lows, highs = [e.low for e in fitted], [e.high for e in fitted]
    for position in range(1, len(fitted)):
        lows[position] = max(lows[position], lows[position - 1])
        highs[-1 - position] = min(highs[-1 - position], highs[-position])
    return [Estimate(e.estimate, low, high) for e, low, high in zip(fitted, lows, highs, strict=True)]
