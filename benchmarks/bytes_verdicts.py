"""Whether a change of quality is a loss: changes paired by rows and seeds, one-sided bounds, and verdicts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from bytes_scores import Quality

RESAMPLES = 20_000
TAIL = 0.05  # of each one-sided bound
AUC_LOSS, NDCG_LOSS = 0.0005, 0.01  # what counts as no loss: absolute for the AUC, relative for NDCG@10
NO_LOSS, UNDECIDED, LOSS = "no loss", "inconclusive", "loss"
T = TypeVar("T")


@dataclass(frozen=True)
class Change:
    """The mean change over seeds, and the one-sided 95 % bounds below and above; relative for a ranking."""

    value: float
    low: float
    high: float
    seeds: int


def paired_change(before: Sequence[Quality], after: Sequence[Quality], *, relative: bool) -> Change:
    """Compare two models of the same seeds on the same rows, by a paired bootstrap over rows and seeds.

    Each resample draws seeds with replacement, and rows with replacement, the same for all seeds and both models. A metric
    changes with the rows as the sum of their influences does, whose sum over resampled rows is drawn from its normal limit:
    O(N S^2) time for N rows and S seeds, and none per resample. The means of S drawn seeds vary less than those of S
    seeds do; their deviations are multiplied by sqrt(S / (S - 1)). One seed shows the spread of the rows alone.
    """
    pairs = list(zip(before, after, strict=True))
    values = np.array([_difference(b.metric, a.metric, relative) for b, a in pairs])
    influence = np.array([_difference_influence(b, a, relative) for b, a in pairs])  # [S, N]
    seeds, mean = len(values), float(values.mean())
    rng = np.random.default_rng(0)
    by_rows = rng.multivariate_normal(np.zeros(seeds), influence @ influence.T, RESAMPLES, method="eigh")  # [R, S]
    drawn = rng.integers(0, seeds, (RESAMPLES, seeds))
    factor = np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 0.0
    by_seeds = factor * (values[drawn] - mean)
    changes = mean + (by_seeds + np.take_along_axis(by_rows, drawn, axis=1)).mean(1)
    low, high = np.quantile(changes, (TAIL, 1.0 - TAIL))
    return Change(mean, float(low), float(high), seeds)


def _difference(before: float, after: float, relative: bool) -> float:
    return after / before - 1.0 if relative else after - before


def _difference_influence(before: Quality, after: Quality, relative: bool) -> np.ndarray:
    """Return the influence of each row on the difference of the metrics, or on their ratio, [N]."""
    if not relative:
        return after.influence - before.influence
    return after.influence / before.metric - before.influence * (after.metric / before.metric**2)


def judge_loss(change: Change, allowed: float) -> str:
    """Return whether at most `allowed` was lost, by the one-sided bounds.

    >>> [judge_loss(Change(v, v - 1.0, v + 1.0, 3), 2.0) for v in (0.0, -2.0, -4.0)]
    ['no loss', 'inconclusive', 'loss']
    """
    if change.low > -allowed:
        return NO_LOSS
    return LOSS if change.high < -allowed else UNDECIDED


def choose_largest_fitting(bytes_by_point: Mapping[T, int], limit: int) -> T | None:
    """Return the point with the most bytes among those of at most `limit`, or None.

    >>> choose_largest_fitting({0.5: 300, 0.9: 120, 0.95: 80}, 128)
    0.9
    """
    fitting = {point: size for point, size in bytes_by_point.items() if size <= limit}
    return max(fitting, key=fitting.__getitem__) if fitting else None


def next_to_try(grid: Sequence[float], bytes_by_point: Mapping[float, int], limit: int) -> float | None:
    """Return the point of a rising grid, along which files shrink, that bisection for the largest fitting file tries next.

    None where the answer is known: the first fitting point has a neighbor that does not fit, or is the first of the grid.

    >>> next_to_try((0.5, 0.7, 0.9), {0.7: 120}, 100), next_to_try((0.5, 0.7, 0.9), {0.7: 120, 0.9: 40}, 100)
    (0.9, None)
    """
    low, high = 0, len(grid)  # the first fitting point lies in [low, high]; high = len(grid) means that none fits
    while low < high:
        middle = (low + high) // 2
        if grid[middle] not in bytes_by_point:
            return grid[middle]
        low, high = (low, middle) if bytes_by_point[grid[middle]] <= limit else (middle + 1, high)
    return None


@dataclass(frozen=True)
class Contest:
    """Ours beside the others at one size: `worse_than` names those that are significantly better, `is_best` by the mean."""

    worse_than: tuple[str, ...]
    is_best: bool


def compare_contestants(ours: Sequence[Quality], others: Mapping[str, Sequence[Quality]], *, relative: bool) -> Contest:
    """Judge ours against each of `others`, with the same seeds: worse where the upper one-sided bound is below 0."""
    changes = {name: paired_change(theirs, ours, relative=relative) for name, theirs in others.items()}
    worse = tuple(name for name, change in changes.items() if change.high < 0.0)
    return Contest(worse, all(change.value >= 0.0 for change in changes.values()))
