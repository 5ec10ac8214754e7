"""Percentiles, ratios and confidence intervals of times that are measured in sequence on a machine with other load."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from recprune_export.evidence import Estimate, t_quantile
from recprune_export.validation.latency.latency_constants import BLOCK

RESAMPLES = 2000  # resamples of rounds, for the interval of a ratio
PERCENTILE_RESAMPLES = 500  # for intervals of percentiles, whose ends then vary by a twentieth of their width
PERCENTS = (50, 95, 99)
DISTRIBUTION = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 100)  # percentiles of the plotted distribution
FENCE = 3.0  # interquartile ranges above the upper quartile: "far out" in Tukey (1977, section 2D)
NAMED = 5  # outliers that are listed


@dataclass(frozen=True)
class Percentiles:
    """Percentiles in milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Outliers:
    """Times beyond `limit` ms. All percentiles include them; `largest` lists the worst as (round, ms)."""

    limit: float
    count: int
    largest: tuple[tuple[int, float], ...]


def percentiles(times: np.ndarray) -> Percentiles:
    """Return p50, p95 and p99 of times [rounds] in ms."""
    return Percentiles(*(float(p) for p in np.percentile(times, PERCENTS)))


def distribution(times: np.ndarray) -> list[float]:
    """Return the percentiles in DISTRIBUTION of times [rounds] in ms, rounded to nanoseconds, the clock's resolution.

    >>> distribution(np.arange(101.0))[:4]
    [0.0, 1.0, 5.0, 10.0]
    """
    return [round(float(p), 6) for p in np.percentile(times, DISTRIBUTION)]


def percentile_intervals(times: np.ndarray, seed: int = 0) -> dict[str, Estimate]:
    """Return p50, p95 and p99 of times [rounds] with their 95 % intervals, by a bootstrap over blocks of rounds."""
    rounds = block_resamples(len(times), np.random.default_rng(seed), PERCENTILE_RESAMPLES)
    resampled = np.percentile(times[rounds], PERCENTS, axis=1)
    lows, highs = np.percentile(resampled, (2.5, 97.5), axis=1)
    percentile_values = np.percentile(times, PERCENTS)
    return {
        f"p{percent}": Estimate(float(value), float(low), float(high))
        for percent, value, low, high in zip(PERCENTS, percentile_values, lows, highs, strict=True)
    }


def ratio_of_medians(above: np.ndarray, below: np.ndarray, seed: int = 0) -> Estimate:
    """Return median(above) / median(below) and its 95 % interval; round i of both ran side by side.

    A paired bootstrap over blocks of rounds: disturbances extend over neighboring rounds, and resampling single rounds
    would make the interval too narrow (Künsch 1989). Rounds also differ in their request: effects common to both cancel
    in the ratio, effects on one of them are in the interval.
    """
    rounds = block_resamples(len(above), np.random.default_rng(seed))
    ratios = np.median(above[rounds], axis=1) / np.median(below[rounds], axis=1)
    low, high = np.percentile(ratios, (2.5, 97.5))
    return Estimate(float(np.median(above) / np.median(below)), float(low), float(high))


def ratio_over_sessions(
    above: np.ndarray,
    below: np.ndarray,
    sessions_above: np.ndarray,
    sessions_below: np.ndarray,
    quantile: float = 0.5,
) -> Estimate:
    """Return the ratio of medians, or other quantiles, and its 95 % interval; `sessions` [rounds] number new sessions.

    Two sessions of one file differ in speed throughout their lifetime, so rounds of one set of sessions are not independent: the interval
    is Student's, over the logarithms of the ratios of the sets. Both models may have different numbers of rounds in a set.
    """
    ratios = [
        float(
            np.quantile(above[sessions_above == number], quantile)
            / np.quantile(below[sessions_below == number], quantile)
        )
        for number in np.unique(sessions_above)
    ]
    return geometric_mean(ratios)


def geometric_mean(values: Sequence[float]) -> Estimate:
    """Return the geometric mean of independent positive values, with Student's 95 % interval of their logarithms."""
    logs = np.log(values)
    margin = t_quantile(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    return Estimate(*(float(value) for value in np.exp([logs.mean(), logs.mean() - margin, logs.mean() + margin])))


def outliers(times: np.ndarray) -> Outliers:
    """Return the outliers among times [rounds] in ms.

    >>> outliers(np.array([1.0, 1.1, 1.0, 1.2, 9.0, 1.1, 1.0, 1.1])).largest
    ((4, 9.0),)
    """
    lower, upper = np.percentile(times, (25, 75))
    limit = float(upper + FENCE * (upper - lower))
    beyond = np.flatnonzero(times > limit)
    worst = sorted(beyond, key=lambda position: -times[position])[:NAMED]
    return Outliers(limit, len(beyond), tuple((int(position), float(times[position])) for position in worst))


def block_resamples(count: int, rng: np.random.Generator, resamples: int | None = None) -> np.ndarray:
    """Return positions of rounds, [resamples, about count], drawn as blocks of neighbors; RESAMPLES by default."""
    resamples = RESAMPLES if resamples is None else resamples
    block = min(BLOCK, count)
    starts = rng.integers(0, count - block + 1, size=(resamples, -(-count // block)))
    return (starts[:, :, None] + np.arange(block)).reshape(resamples, -1)


def midmean(values: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half of the last axis: nearly as efficient as the mean, and robust to outliers.

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
    """Return `statistic` of a few independent values, with a bootstrap interval that is correct for few values.

    The plain percentile interval is too narrow for few values, because it lacks the factor n / (n - 1) and the tails of the t
    distribution. Its percentiles are moved outwards to account for both (the expanded percentile interval of Hesterberg 2015, "What
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
