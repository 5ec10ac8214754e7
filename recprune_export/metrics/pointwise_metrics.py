"""Metrics that are means over rows, or follow from one: logloss, RMSE, MAE, accuracy, and the calibration error ECE.

For more than `MEMORY_ROWS` rows they are sums in float64 over pieces of the rows; for fewer rows without weights, torchmetrics computes
them.
"""

from collections.abc import Callable

import numpy as np

from recprune_export.data.labels import LabelKind
from recprune_export.metrics import row_arrays
from recprune_export.metrics.observations import Observations
from recprune_export.metrics.row_arrays import make_row_array

RowValues = Callable[[Observations], np.ndarray]  # the observations of N rows -> a number for each, [N]
CALIBRATION_BINS = 15  # of equal width, the default of torchmetrics


def row_losses(observed: Observations) -> np.ndarray:
    """Return the cross entropy of each row in nats, [N]."""
    predictions, labels = observed.predictions, observed.targets.labels
    if observed.targets.kind is LabelKind.CLASSES:
        chosen = predictions[np.arange(len(labels)), labels.astype(np.int64)]
        return -np.log(chosen.clip(1e-12, 1.0))
    clamped = predictions.clip(1e-12, 1.0 - 1e-12)
    return -(labels * np.log(clamped) + (1.0 - labels) * np.log1p(-clamped))


def absolute_errors(observed: Observations) -> np.ndarray:
    """Return the absolute error of each row, [N]."""
    return np.abs(observed.predictions - observed.targets.labels)


def squared_errors(observed: Observations) -> np.ndarray:
    """Return the squared error of each row, [N]."""
    return np.square(observed.predictions - observed.targets.labels)


def correct_classes(observed: Observations) -> np.ndarray:
    """Return 1 for each row whose most probable class, or side of .5, is its label, else 0, [N]."""
    predictions, labels = observed.predictions, observed.targets.labels
    chosen = predictions.argmax(1) if observed.targets.kind is LabelKind.CLASSES else predictions > 0.5
    return (chosen == labels).astype(np.float64)


def has_torchmetrics_form(observed: Observations) -> bool:
    """Return whether torchmetrics can measure these rows: it does not support weights, and needs all rows in memory."""
    return observed.targets.weights is None and len(observed.targets) <= row_arrays.MEMORY_ROWS


def compute_mean(rows: RowValues, observed: Observations) -> float:
    """Return the weighted mean of a value of each row."""
    return observed.sum_over_rows(lambda piece: piece.targets.weight * rows(piece)) / observed.targets.total_weight


def compute_rmse(observed: Observations) -> float:
    """Return the root of the mean squared error, by torchmetrics or as a weighted mean."""
    if not has_torchmetrics_form(observed):
        return float(np.sqrt(compute_mean(squared_errors, observed)))
    import torch
    from torchmetrics.functional.regression import mean_squared_error

    labels = torch.from_numpy(observed.targets.labels).double()
    return float(mean_squared_error(torch.from_numpy(observed.predictions), labels, squared=False))


def compute_mae(observed: Observations) -> float:
    """Return the mean absolute error, by torchmetrics or as a weighted mean."""
    if not has_torchmetrics_form(observed):
        return compute_mean(absolute_errors, observed)
    import torch
    from torchmetrics.functional.regression import mean_absolute_error

    labels = torch.from_numpy(observed.targets.labels).double()
    return float(mean_absolute_error(torch.from_numpy(observed.predictions), labels))


def compute_ece(observed: Observations) -> float:
    """Return the expected calibration error: the mean distance of predicted and observed rate in 15 bins of equal width.

    By torchmetrics, or in its weighted form. For classes, the probability of the most probable one is used.
    """
    if not has_torchmetrics_form(observed):
        return float(np.abs(_compute_bin_gaps(observed)).sum())
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    predicted, actual = predicted_and_observed(observed)
    return float(
        binary_calibration_error(torch.from_numpy(predicted), torch.from_numpy(actual).long(), n_bins=CALIBRATION_BINS)
    )


def compute_influence(rows: RowValues, observed: Observations) -> np.ndarray:
    """Return the influence of each row, [N], from its value without the weight: weight * value / total weight."""
    influence = make_row_array(len(observed.targets), np.float64)
    for place, piece in observed.pieces:
        influence[place] = piece.targets.weight * rows(piece) / observed.targets.total_weight
    return influence


def mean_influence(rows: RowValues, observed: Observations) -> np.ndarray:
    """Return the influence of each row on the weighted mean of `rows`, [N]."""
    mean = compute_mean(rows, observed)
    return compute_influence(lambda piece: rows(piece) - mean, observed)


def rmse_influence(observed: Observations) -> np.ndarray:
    """Return the influence of each row on the RMSE, [N]."""
    mean = compute_mean(squared_errors, observed)
    scale = 0.5 / np.sqrt(mean) if mean else 0.0
    return compute_influence(lambda piece: (squared_errors(piece) - mean) * scale, observed)


def ece_influence(observed: Observations) -> np.ndarray:
    """Return the influence of each row on the ECE if no bin is perfectly calibrated, [N]."""
    gaps = _compute_bin_gaps(observed)
    signs, total = np.sign(gaps), np.abs(gaps).sum()

    def rows(piece: Observations) -> np.ndarray:
        predicted, actual = predicted_and_observed(piece)
        return np.asarray(signs[assign_bins(predicted)] * (predicted - actual) - total)

    return compute_influence(rows, observed)


def predicted_and_observed(observed: Observations) -> tuple[np.ndarray, np.ndarray]:
    """Return the predicted probability or number of each row and the value that was observed, both [N].

    Of classes: the probability of the most probable one, and 1 where it is the label.
    """
    if observed.targets.kind is LabelKind.CLASSES:
        return observed.predictions.max(1), correct_classes(observed)
    return observed.predictions, observed.targets.labels.astype(np.float64)


def assign_bins(predicted: np.ndarray) -> np.ndarray:
    """Return the index of the bin of equal width of each probability, [N]."""
    return np.minimum((predicted * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def _compute_bin_gaps(observed: Observations) -> np.ndarray:
    """Return predicted minus observed rate of each bin, times its share of the weight, [bins]."""
    sums = np.zeros(CALIBRATION_BINS)
    for _, piece in observed.pieces:
        predicted, actual = predicted_and_observed(piece)
        weights = piece.targets.weight * (predicted - actual)
        sums += np.bincount(assign_bins(predicted), weights=weights, minlength=CALIBRATION_BINS)
    return sums / observed.targets.total_weight
