"""`PredictionCalibration`: mean predictions with mean labels, over all rows and in bins of the prediction."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from recprune_export.codec import ToDictMixin
from recprune_export.data.labels import LabelKind
from recprune_export.metrics.observations import Observations
from recprune_export.metrics.pointwise_metrics import (
    CALIBRATION_BINS,
    assign_bins,
    compute_ece,
    predicted_and_observed,
)
from recprune_export.metrics.row_arrays import find_quantiles

NUMBER_BINS = 10  # bins with equal numbers of rows


@dataclass(frozen=True)
class CalibrationBin(ToDictMixin):
    """The rows whose prediction lies in one bin: their number, and the means of prediction and label."""

    rows: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class PredictionCalibration(ToDictMixin):
    """The means of prediction and label of all rows and of each bin that has rows, from low to high predictions.

    For probabilities, the bins are those of `ece`, the expected calibration error; for numbers, they have equal numbers of rows, and
    `ece` is None. For classes, the prediction is the probability of the most probable one, and the label is 1 if it is correct.
    """

    predicted: float
    observed: float
    ece: float | None
    bins: tuple[CalibrationBin, ...]


def calibrate(observed: Observations) -> PredictionCalibration | None:
    """Return the calibration of the outputs for one label; None for rankings and without rows."""
    kind = observed.targets.kind
    if kind is LabelKind.NEXT_ITEM or not len(observed.targets):
        return None
    is_number = kind is LabelKind.NUMBER
    assign = _make_equal_count_bins(observed.predictions) if is_number else assign_bins
    sums = np.zeros((4, CALIBRATION_BINS))
    for _, piece in observed.pieces:
        predicted, actual = predicted_and_observed(piece)
        weight = piece.targets.weight
        bins = assign(predicted)
        for row, values in zip(
            sums, (np.ones(len(predicted)), weight, weight * predicted, weight * actual), strict=True
        ):
            row += np.bincount(bins, weights=values, minlength=CALIBRATION_BINS)
    cells = tuple(
        CalibrationBin(int(rows), float(p / w), float(a / w)) for rows, w, p, a in zip(*sums, strict=True) if rows
    )
    mean_prediction, mean_label = (float(total / sums[1].sum()) for total in (sums[2].sum(), sums[3].sum()))
    return PredictionCalibration(mean_prediction, mean_label, None if is_number else compute_ece(observed), cells)


def _make_equal_count_bins(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that returns the decile of each value among `values`, [N]; equal values share a bin.

    >>> _make_equal_count_bins(np.arange(20.0))(np.arange(5.0)).tolist()
    [0, 0, 1, 1, 2]
    """
    edges = find_quantiles(values, np.arange(1, NUMBER_BINS) / NUMBER_BINS)
    return lambda predicted: np.searchsorted(edges, predicted, side="right")
