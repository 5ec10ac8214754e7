"""`paired_change`: the change of a metric between two models on the same rows, with a confidence interval."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Any, Self

import numpy as np

from recprune_export.codec import DictMixin, decode
from recprune_export.evidence import Estimate, t_quantile
from recprune_export.metrics.deciding_metric import DecidingMetric
from recprune_export.metrics.observations import Observations
from recprune_export.metrics.row_arrays import count_codes, make_row_array, split_rows_into_pieces, sum_over_rows

LEVEL = 0.975  # the probability below the upper end of a 95 % interval


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
        """The loss from `before` to `after`: positive is worse, whichever direction of the metric is better.

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
    """Compare a metric of the outputs of two models to the same rows, by label.

    The interval follows from the influence of each row, or each group, on the difference: the limit of a paired bootstrap
    over rows (the infinitesimal jackknife: Efron 1982, "The Jackknife, the Bootstrap and Other Resampling Plans", chapter
    6; for the AUC, DeLong's interval). The difficulty of the rows cancels. Quantiles are those of Student's t, and near a metric of 1 the
    interval of the logarithm of the distance from 1 is also used (docs/decisions/paired-intervals.md). Models with the same outputs have
    an interval of 0; if outputs differ but no pair of rows changed its order, a metric of the order still has the interval of a few
    pairs.

    All N rows are used, without sampling: O(N log N) time for metrics of the order, O(N) for others. Up to half a million rows are kept
    in memory; for more rows, the numbers are in files, and memory does not grow (docs/decisions/metrics-of-many-rows.md).
    """
    first, second = (_measure(deciding, observations) for observations in (before, after))
    low, high = (0.0, 0.0) if _same_answers(deciding, before, after) else _interval(deciding, first, second)
    change = second.value - first.value
    error = sqrt(
        _measure_spread(lambda piece: second.influence[piece], len(second.influence)).variance * second.correction
    )
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
    row_share: float  # relative to the weight of all rows, the root mean square over rows

    @property
    def correction(self) -> float:
        """The factor of the variance of a sample: n / (n - 1)."""
        return self.units / max(self.units - 1, 1)


def _measure(deciding: DecidingMetric, observations: Mapping[str, Observations]) -> _Measurement:
    labels = [observations[label] for label in deciding.labels]
    metric, count = deciding.metric, len(labels)
    size = max(_count_places(deciding, observed) for observed in labels)
    influence = make_row_array(size, np.float64)
    has_label = make_row_array(labels[0].targets.total, bool)
    shares = []
    for observed in labels:
        values, targets = metric.influence(observed), observed.targets
        for piece in split_rows_into_pieces(len(values)):
            influence[piece if metric.by_group else targets.rows[piece]] += values[piece] / count
        for piece in split_rows_into_pieces(len(targets)):
            has_label[targets.rows[piece]] = True
        squares = targets.sum_over_rows(lambda piece: np.square(piece.weight))
        shares.append(sqrt(squares / len(targets)) / targets.total_weight)
    return _Measurement(
        deciding.compute(observations),
        influence,
        min(metric.count_units(observed.targets) for observed in labels),
        int(sum_over_rows(lambda piece: has_label[piece], len(has_label))),
        float(np.mean(shares)),
    )


def _count_places(deciding: DecidingMetric, observed: Observations) -> int:
    if not deciding.metric.by_group:
        return observed.targets.total
    assert observed.targets.groups is not None
    return count_codes(observed.targets.groups)


def _same_answers(
    deciding: DecidingMetric, before: Mapping[str, Observations], after: Mapping[str, Observations]
) -> bool:
    return all(before[label].same_answers(after[label]) for label in deciding.labels)


def _interval(deciding: DecidingMetric, first: _Measurement, second: _Measurement) -> tuple[float, float]:
    """Return the ends of the interval, relative to the difference of the two values."""
    metric, units = deciding.metric, first.units
    if units < 2:  # the spread is unknown
        half = 1.0 if metric.bounded or metric.steps else 10.0 * max(1.0, first.value, second.value)
        return -half, half
    difference = _measure_spread(lambda piece: second.influence[piece] - first.influence[piece], len(first.influence))
    half = _half_width_of_steps(difference, units, first.row_share) if metric.steps else _half_width(difference, units)
    if not metric.bounded:
        return -half, half
    smallest = 0.5 / (units * first.rows)
    left = (max(1.0 - m.value, smallest) for m in (first, second))
    below_before, below_after = left
    half = max(half, min(_half_width_of_pairs(first, by_group=metric.by_group), 1.0))
    logs = _measure_spread(
        lambda piece: first.influence[piece] / below_before - second.influence[piece] / below_after,
        len(first.influence),
    )
    log_half = _half_width(logs, units, skewed=True)
    log_ratio, change = log(below_after / below_before), below_before - below_after
    low, high = (below_before * (1.0 - exp(log_ratio + sign * log_half)) - change for sign in (1.0, -1.0))
    return min(-half, low), max(half, high)


@dataclass(frozen=True)
class _Spread:
    """The sums of the squares and of the fourth powers of n influences."""

    variance: float
    fourth: float
    count: int


def _measure_spread(influence: Callable[[slice], np.ndarray], count: int) -> _Spread:
    """Sum over `count` influences, of which the function returns those of a slice."""
    variance = fourth = 0.0
    for piece in split_rows_into_pieces(count):
        squares = np.square(influence(piece))
        variance += float(squares.sum())
        fourth += float(np.square(squares).sum())
    return _Spread(variance, fourth, count)


def _half_width(influence: _Spread, units: int, *, skewed: bool = False) -> float:
    """Return half the width of the interval of a sum of influences.

    The degrees of freedom follow from the spread of the squares: so a few rows with a large influence give few degrees of freedom. With
    `skewed` the Cornish-Fisher term of the largest skewness that the spread allows is added: q²/6 of a typical row.
    """
    variance, fourth = influence.variance, influence.fourth
    if variance == 0.0:
        return 0.0
    spread = fourth - variance**2 / influence.count
    freedom = min(2.0 * variance**2 / spread if spread > 0.0 else units - 1.0, units - 1.0)
    quantile = t_quantile(LEVEL, max(freedom, 1.0))
    skewness = quantile**2 * sqrt(fourth / variance) / 6.0 if skewed else 0.0
    return skewness + quantile * sqrt(variance * units / (units - 1))


def _half_width_of_pairs(measured: _Measurement, *, by_group: bool) -> float:
    """Return half the width if no pair of a positive and a negative row changed its order: 3.84 pairs, as for steps. An unchanged order
    of a few rows does not show that it would not change in others.

    Groups count with their average size.
    """
    units, rows = measured.units, measured.rows
    pair = 4.0 * units / rows**2 if by_group else 1.0 / (units * max(rows - units, 1))
    return t_quantile(LEVEL, units - 1) ** 2 * pair


def _half_width_of_steps(influence: _Spread, units: int, row_share: float) -> float:
    """Return half the width if a row changes the metric by up to `row_share` or not at all, by the score interval.

    If none of a few rows changed, others still may: the upper end is then about 3.84 rows, that of a count of 0 (Rao's score interval of
    a Poisson mean). The step is the typical one, including one row with the largest step.
    """
    variance = influence.variance
    step = (influence.fourth + row_share**4) / (variance + row_share**2)
    quantile = t_quantile(LEVEL, units - 1)
    half_step = quantile**2 * sqrt(step) / 2.0
    return half_step + quantile * sqrt(variance * units / (units - 1) + quantile**2 * step / 4.0)
