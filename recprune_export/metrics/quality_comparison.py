"""`QualityComparison`: metrics of two models on the same rows, also by frequency of ids in training, and calibration."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from recprune_export.codec import ToDictMixin
from recprune_export.metrics._paired_change import MetricChange, paired_change
from recprune_export.metrics.evaluator import Evaluator
from recprune_export.metrics.observations import Observations
from recprune_export.metrics.prediction_calibration import PredictionCalibration, calibrate
from recprune_export.metrics.row_arrays import make_row_array, split_rows_into_pieces, sum_over_rows

FREQUENCY_EDGES = (0, 1, 10, 100)  # the smallest number of training rows in each bucket
ByModel = Mapping[str, Mapping[str, float]]  # "dense", "pruned" -> metric -> value


@dataclass(frozen=True)
class IdFrequencies:
    """For each of N rows the number of training rows with its id, int64 [N]; `by` is the id of a row that is used."""

    by: str
    counts: np.ndarray


@dataclass(frozen=True)
class FrequencyBucket(ToDictMixin):
    """The rows whose id occurred in `least` to `most` training rows, None for any number; with metrics by model.

    `change` is that of the deciding metric in this bucket, None if no metric is defined.
    """

    least: int
    most: int | None
    rows: int
    metrics: ByModel
    change: MetricChange | None


@dataclass(frozen=True)
class QualityBreakdown(ToDictMixin):
    """Quality by bucket of id frequency, and the calibration of both models by label."""

    by: str
    buckets: tuple[FrequencyBucket, ...]
    calibration: Mapping[str, Mapping[str, PredictionCalibration]]  # label -> "dense", "pruned" -> calibration


@dataclass(frozen=True)
class QualityComparison:
    """Metrics of the dense and the pruned model on the same rows; empty without labels, None if none is defined.

    `change` is that of the deciding metric, `changes` are those of all, by name.
    """

    metrics: ByModel = field(default_factory=lambda: {"dense": {}, "pruned": {}})
    change: MetricChange | None = None
    breakdown: QualityBreakdown | None = None
    changes: Mapping[str, MetricChange] = field(default_factory=dict)


def compare_quality(
    evaluator: Evaluator,
    dense: Mapping[str, Observations],
    pruned: Mapping[str, Observations],
    frequencies: IdFrequencies | None,
) -> QualityComparison:
    """Compare the outputs of both models to the same rows, by label."""
    models = {"dense": dense, "pruned": pruned}
    metrics = {name: evaluator.measure(observations) for name, observations in models.items()}
    calibrations = {
        label: {name: calibrate(observations[label]) for name, observations in models.items()} for label in dense
    }
    known = {
        label: {name: value for name, value in by_model.items() if value is not None}
        for label, by_model in calibrations.items()
    }
    buckets = () if frequencies is None else _split_by_frequency(evaluator, models, frequencies)
    breakdown = QualityBreakdown(
        "" if frequencies is None else frequencies.by,
        buckets,
        {label: by_model for label, by_model in known.items() if by_model},
    )
    change, changes = _change(evaluator, dense, pruned), evaluator.compare(dense, pruned)
    return QualityComparison(metrics, change, breakdown, changes)


def _split_by_frequency(
    evaluator: Evaluator, models: Mapping[str, Mapping[str, Observations]], frequencies: IdFrequencies
) -> tuple[FrequencyBucket, ...]:
    """Return the buckets that have rows."""
    counts = frequencies.counts
    bucket, mask = make_row_array(len(counts), np.int8), make_row_array(len(counts), bool)
    for piece in split_rows_into_pieces(len(counts)):
        bucket[piece] = np.searchsorted(FREQUENCY_EDGES, counts[piece], side="right") - 1
    buckets = []
    for index, least in enumerate(FREQUENCY_EDGES):
        for piece in split_rows_into_pieces(len(counts)):
            mask[piece] = bucket[piece] == index
        rows = int(sum_over_rows(lambda piece: mask[piece], len(counts)))
        if not rows:
            continue
        selected = {
            name: {label: observed.select(mask) for label, observed in observations.items()}
            for name, observations in models.items()
        }
        metrics = {name: evaluator.measure(observations) for name, observations in selected.items()}
        change = _change(evaluator, selected["dense"], selected["pruned"])
        most = FREQUENCY_EDGES[index + 1] - 1 if index + 1 < len(FREQUENCY_EDGES) else None
        buckets.append(FrequencyBucket(least, most, rows, metrics, change))
    return tuple(buckets)


def _change(
    evaluator: Evaluator, dense: Mapping[str, Observations], pruned: Mapping[str, Observations]
) -> MetricChange | None:
    deciding = evaluator.choose_deciding({label: observed.targets for label, observed in dense.items()})
    return None if deciding is None else paired_change(deciding, dense, pruned)
