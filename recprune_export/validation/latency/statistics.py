"""Percentiles, ratios and intervals of times that were measured one after another on a machine that is never quite idle."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

RESAMPLES = 2000
BLOCK = 8  # neighbouring rounds that are resampled together
PERCENTS = (50, 95, 99)
DISTRIBUTION = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)  # percentiles by which a distribution is drawn
FENCE = 3.0  # interquartile ranges above the upper quartile: what Tukey calls far out (1977, section 2D)
NAMED = 5  # outliers that are listed


@dataclass(frozen=True)
class Estimate:
    """A figure and its confidence interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Percentiles:
    """In milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Outliers:
    """Times beyond `limit` ms. They stay in every percentile; `largest` names the worst as (round, ms)."""

    limit: float
    count: int
    largest: tuple[tuple[int, float], ...]


def percentiles(times: np.ndarray) -> Percentiles:
    """Return p50, p95 and p99 of times [rounds] in ms."""
    return Percentiles(*(float(p) for p in np.percentile(times, PERCENTS)))


def distribution(times: np.ndarray) -> list[float]:
    """Return the percentiles in DISTRIBUTION of times [rounds] in ms, to the nanosecond that the clock tells.

    >>> distribution(np.arange(101.0))[:4]
    [0.0, 1.0, 5.0, 10.0]
    """
    return [round(float(p), 6) for p in np.percentile(times, DISTRIBUTION)]


def percentile_intervals(times: np.ndarray, seed: int = 0) -> dict[str, Estimate]:
    """Return p50, p95 and p99 of times [rounds] with their 95 % intervals, by a bootstrap over blocks of rounds."""
    rounds = block_resamples(len(times), np.random.default_rng(seed))
    resampled = np.percentile(times[rounds], PERCENTS, axis=1)
    lows, highs = np.percentile(resampled, (2.5, 97.5), axis=1)
    found = np.percentile(times, PERCENTS)
    return {
        f"p{percent}": Estimate(float(value), float(low), float(high))
        for percent, value, low, high in zip(PERCENTS, found, lows, highs, strict=True)
    }


def ratio_of_medians(above: np.ndarray, below: np.ndarray, seed: int = 0) -> Estimate:
    """Return median(above) / median(below), round i of both run next to each other, and its 95 % interval.

    A bootstrap over rounds, paired, in blocks: what disturbs a round disturbs its neighbours as well, and resampling
    single rounds would make the interval too narrow (Künsch 1989). Rounds also differ in what is asked: that both were asked the
    same cancels in the ratio, and what one of them finds harder than the other is in the interval.
    """
    rounds = block_resamples(len(above), np.random.default_rng(seed))
    ratios = np.median(above[rounds], axis=1) / np.median(below[rounds], axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return Estimate(float(np.median(above) / np.median(below)), float(low), float(high))


def outliers(times: np.ndarray) -> Outliers:
    """Find the times [rounds], in ms, that lie far out.

    >>> outliers(np.array([1.0, 1.1, 1.0, 1.2, 9.0, 1.1, 1.0, 1.1])).largest
    ((4, 9.0),)
    """
    lower, upper = np.percentile(times, (25, 75))
    limit = float(upper + FENCE * (upper - lower))
    beyond = np.flatnonzero(times > limit)
    worst = sorted(beyond, key=lambda position: -times[position])[:NAMED]
    return Outliers(limit, len(beyond), tuple((int(position), float(times[position])) for position in worst))


def block_resamples(count: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of rounds, [RESAMPLES, about count], drawn as blocks of neighbours."""
    block = min(BLOCK, count)
    starts = rng.integers(0, count - block + 1, size=(RESAMPLES, -(-count // block)))
    return (starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)


def midmean(values: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half of the last axis: nearly as exact as the mean, and no one value can move it.

    >>> float(midmean(np.array([1.0, 2.0, 3.0, 4.0, 100.0])))
    3.0
    """
    count = values.shape[-1]
    cut = count // 4
    return np.sort(values, axis=-1)[..., cut : count - cut].mean(axis=-1)


def interval_of_few(
    values: Sequence[float] | np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray] = midmean,
    confidence: float = 0.99,
    seed: int = 0,
) -> Estimate:
    """Return `statistic` of a handful of independent values, with a bootstrap interval that is honest for a handful.

    The plain percentile interval is too narrow for few values: it lacks the factor n / (n - 1) and the t distribution's
    tails. Its percentiles are moved outwards by just that (the expanded percentile interval of Hesterberg 2015, "What
    Teachers Should Know About the Bootstrap", section 5.2). Raises `ValueError` for fewer than three values.
    """
    array = np.asarray(values, dtype=np.float64)
    count = len(array)
    if count < 3:
        raise ValueError(f"{count} values have no interval")
    drawn = np.random.default_rng(seed).integers(0, count, size=(5 * RESAMPLES, count))
    tail = NormalDist().cdf(-((count / (count - 1)) ** 0.5) * t_quantile((1 + confidence) / 2, count - 1))
    low, high = np.quantile(statistic(array[drawn]), (tail, 1 - tail))
    return Estimate(float(statistic(array)), float(low), float(high))


def t_quantile(probability: float, freedom: int) -> float:
    """Return a quantile of Student's t by its expansion about the normal one (Abramowitz & Stegun 26.7.5).

    >>> round(t_quantile(0.975, 10), 2), round(t_quantile(0.995, 7), 2)
    (2.23, 3.5)
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
