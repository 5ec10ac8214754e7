"""`paired_change`: the change of a metric between two models on the same rows, with a confidence interval."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Any, Self

import numpy as np

from recprune_export.codec import DictMixin, decode
from recprune_export.evidence import Estimate, t_quantile
from recprune_export.metrics.deciding_metric import DecidingMetric
from recprune_export.metrics.observations import Observations

LEVEL = 0.975  # of both ends: an interval of 95 %


@dataclass(frozen=True)
class MetricChange(DictMixin):
    """A metric of two models on the same rows, and the 95 % interval of `after` - `before`.

    `error` is the standard error of `after` over samples of rows; `rows` is the number of rows.
    """

    ENCODED = ("metric", "before", "after", "interval", "error", "rows", "greater_is_better")

    metric: str
    before: float
    after: float
    low: float
    high: float
    error: float
    rows: int = 0
    greater_is_better: bool = True

    @property
    def change(self) -> float:
        """The difference of the two metrics."""
        return self.after - self.before

    @property
    def interval(self) -> tuple[float, float]:
        """Its ends, with a confidence of 95 %."""
        return self.low, self.high

    @property
    def estimate(self) -> Estimate:
        """The difference with its interval."""
        return Estimate(self.change, self.low, self.high)

    @property
    def loss(self) -> Estimate:
        """How much worse `after` is than `before`: positive is worse, whether more or less of the metric is better.

        >>> MetricChange("logloss", 0.5, 0.75, 0.125, 0.375, 0.1, greater_is_better=False).loss
        Estimate(estimate=0.25, low=0.125, high=0.375)
        """
        return -self.estimate if self.greater_is_better else self.estimate

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the values that `to_dict` returned. Raises `ValueError` or `KeyError` if they are of another form."""
        low, high = values["interval"]
        return decode(cls, {**values, "low": low, "high": high})


def paired_change(
    deciding: DecidingMetric, before: Mapping[str, Observations], after: Mapping[str, Observations]
) -> MetricChange:
    """Compare a metric of the answers of two models to the same rows, by label.

    The interval follows from the influence of each row, or each group, on the difference: the limit of a paired bootstrap
    over rows (the infinitesimal jackknife: Efron 1982, "The Jackknife, the Bootstrap and Other Resampling Plans", chapter
    6; for the AUC, DeLong's interval). The difficulty of the rows cancels. Quantiles are those of Student's t, and near a
    metric of 1 the interval of the logarithm of the distance from 1 counts as well (docs/decisions/paired-intervals.md).
    Models with the same answers have an interval of 0; where answers differ and no pair of rows changed its order, a metric
    of the order still has the interval of a few pairs.

    All N rows count, and none are drawn: O(N log N) time for metrics of the order, O(N) for others, and O(N) memory. A million
    rows take 0.06 to 1.6 CPU seconds, less than the answers of any model to them.
    """
    first, second = (_measure(deciding, observations) for observations in (before, after))
    low, high = (0.0, 0.0) if _same_answers(deciding, before, after) else _interval(deciding, first, second)
    change = second.value - first.value
    error = sqrt(float(np.square(second.influence).sum()) * second.correction)
    return MetricChange(
        deciding.name, first.value, second.value, change + low, change + high, error, first.rows,
        deciding.metric.greater_is_better,
    )  # fmt: skip


@dataclass(frozen=True)
class _Measurement:
    """A metric, the influence of each of n rows or groups, [n], and the number of `units` of the rarer kind among them."""

    value: float
    influence: np.ndarray
    units: int
    rows: int
    row_share: float  # of the weight of all rows, the root mean square over rows

    @property
    def correction(self) -> float:
        """The factor of the variance of a sample: n / (n - 1)."""
        return self.units / max(self.units - 1, 1)


def _measure(deciding: DecidingMetric, observations: Mapping[str, Observations]) -> _Measurement:
    labels = [observations[label] for label in deciding.labels]
    metric, count = deciding.metric, len(labels)
    size = max(_count_places(deciding, observed) for observed in labels)
    influence, has_label = np.zeros(size), np.zeros(labels[0].targets.total, dtype=bool)
    shares = []
    for observed in labels:
        values, targets = metric.influence(observed), observed.targets
        influence[np.arange(len(values)) if metric.by_group else targets.rows] += values / count
        has_label[targets.rows] = True
        shares.append(sqrt(float(np.square(targets.weight / targets.weight.sum()).mean())))
    return _Measurement(
        deciding.compute(observations),
        influence,
        min(metric.count_units(observed.targets) for observed in labels),
        int(has_label.sum()),
        float(np.mean(shares)),
    )


def _count_places(deciding: DecidingMetric, observed: Observations) -> int:
    if not deciding.metric.by_group:
        return observed.targets.total
    assert observed.targets.groups is not None
    return int(observed.targets.groups.max()) + 1


def _same_answers(
    deciding: DecidingMetric, before: Mapping[str, Observations], after: Mapping[str, Observations]
) -> bool:
    return all(before[label].same_answers(after[label]) for label in deciding.labels)


def _interval(deciding: DecidingMetric, first: _Measurement, second: _Measurement) -> tuple[float, float]:
    """Return the ends of the interval, relative to the difference of the two values."""
    metric, units = deciding.metric, first.units
    if units < 2:  # no spread can be seen
        half = 1.0 if metric.bounded or metric.steps else 10.0 * max(1.0, first.value, second.value)
        return -half, half
    difference = second.influence - first.influence
    half = _half_width_of_steps(difference, units, first.row_share) if metric.steps else _half_width(difference, units)
    if not metric.bounded:
        return -half, half
    smallest = 0.5 / (units * first.rows)
    left = (max(1.0 - m.value, smallest) for m in (first, second))
    below_before, below_after = left
    half = max(half, min(_half_width_of_pairs(first, by_group=metric.by_group), 1.0))
    logs = first.influence / below_before - second.influence / below_after
    log_half = _half_width(logs, units, skewed=True)
    log_ratio, change = log(below_after / below_before), below_before - below_after
    low, high = (below_before * (1.0 - exp(log_ratio + sign * log_half)) - change for sign in (1.0, -1.0))
    return min(-half, low), max(half, high)


def _half_width(influence: np.ndarray, units: int, *, skewed: bool = False) -> float:
    """Return half the width of the interval of a sum of `influence`, [n].

    The degrees of freedom follow from the spread of the squares: few rows with a large influence count as few. With
    `skewed` the Cornish-Fisher term of the largest skewness that the spread allows is added: q²/6 of a typical row.
    """
    squares = np.square(influence)
    variance, fourth = float(squares.sum()), float(np.square(squares).sum())
    if variance == 0.0:
        return 0.0
    spread = fourth - variance**2 / len(squares)
    freedom = min(2.0 * variance**2 / spread if spread > 0.0 else units - 1.0, units - 1.0)
    quantile = t_quantile(LEVEL, max(freedom, 1.0))
    skewness = quantile**2 * sqrt(fourth / variance) / 6.0 if skewed else 0.0
    return skewness + quantile * sqrt(variance * units / (units - 1))


def _half_width_of_pairs(measured: _Measurement, *, by_group: bool) -> float:
    """Return half the width where no pair of a positive and a negative row changed its order: 3.84 pairs, as for steps.

    That the order of a few rows stayed does not show that it would stay everywhere. Groups count with their average size.
    """
    units, rows = measured.units, measured.rows
    pair = 4.0 * units / rows**2 if by_group else 1.0 / (units * max(rows - units, 1))
    return t_quantile(LEVEL, units - 1) ** 2 * pair


def _half_width_of_steps(influence: np.ndarray, units: int, row_share: float) -> float:
    """Return half the width where a row changes the metric by up to `row_share` or not at all, by the score interval.

    That no row of a few changed does not show that none would: the upper end is then about 3.84 rows, as that of a count
    of 0 (Rao's score interval of a Poisson mean). The step is the typical one, with one row of the largest among them.
    """
    squares = np.square(influence)
    variance = float(squares.sum())
    step = (float(np.square(squares).sum()) + row_share**4) / (variance + row_share**2)
    quantile = t_quantile(LEVEL, units - 1)
    half_step = quantile**2 * sqrt(step) / 2.0
    return half_step + quantile * sqrt(variance * units / (units - 1) + quantile**2 * step / 4.0)
