"""`DecidingMetric`: the metric that selects an epoch and judges a change, as its mean over labels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recprune_export.metrics.metric_catalogue import MEAN, Metric
from recprune_export.metrics.observations import Observations


@dataclass(frozen=True)
class DecidingMetric:
    """The mean of `metric` over `labels`; `name` is its name in results."""

    name: str
    metric: Metric
    labels: tuple[str, ...]

    def compute(self, observations: Mapping[str, Observations]) -> float:
        """Return the value for the outputs of a model, by label; NaN if one of them is NaN, which cannot be ordered."""
        if any(observations[label].has_nan for label in self.labels):
            return math.nan
        values = [self.metric.compute(observations[label]) for label in self.labels]
        return values[0] if len(values) == 1 else float(np.mean(values).round(12))


def read_metric(values: Mapping[str, float], name: str) -> float | None:
    """Return the value of a metric among recorded ones, a mean over labels included; None if it was not measured.

    >>> read_metric({"a/auc": 0.6, "a/logloss": 0.5, "b/auc": 0.8, "b/logloss": 0.4}, "mean auc")
    0.7
    """
    if not name.startswith(MEAN):
        return values.get(name)
    plain = name.removeprefix(MEAN)
    by_label = [value for key, value in values.items() if key.rpartition("/")[2] == plain]
    return float(np.mean(by_label).round(12)) if by_label else None


def read_first_metric(values: Mapping[str, float]) -> tuple[str, float]:
    """Return name and value of the deciding metric, the first of the measured metrics; with several labels its mean over them.

    >>> read_first_metric({"a/auc": 0.6, "a/logloss": 0.5, "b/auc": 0.8, "b/logloss": 0.4})
    ('mean auc', 0.7)
    """
    name = next(iter(values))
    if "/" not in name:
        return name, values[name]
    mean = MEAN + name.rpartition("/")[2]
    return mean, read_metric(values, mean) or 0.0
