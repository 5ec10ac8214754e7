"""Metrics that are means over rows, or follow from one: logloss, RMSE, MAE, accuracy, and the calibration error ECE."""

import numpy as np

from recprune_export.data.labels import LabelKind
from recprune_export.metrics.observations import Observations

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


def compute_mean(rows: np.ndarray, observed: Observations) -> float:
    """Return the weighted mean of a value of each row."""
    return float(np.average(rows, weights=observed.targets.weights))


def compute_rmse(observed: Observations) -> float:
    """Return the root of the mean squared error, of torchmetrics; with weights, of the weighted mean."""
    if observed.targets.weights is not None:
        return float(np.sqrt(compute_mean(squared_errors(observed), observed)))
    import torch
    from torchmetrics.functional.regression import mean_squared_error

    labels = torch.from_numpy(observed.targets.labels).double()
    return float(mean_squared_error(torch.from_numpy(observed.predictions), labels, squared=False))


def compute_mae(observed: Observations) -> float:
    """Return the mean absolute error, of torchmetrics; with weights, the weighted mean."""
    if observed.targets.weights is not None:
        return compute_mean(absolute_errors(observed), observed)
    import torch
    from torchmetrics.functional.regression import mean_absolute_error

    labels = torch.from_numpy(observed.targets.labels).double()
    return float(mean_absolute_error(torch.from_numpy(observed.predictions), labels))


def compute_ece(observed: Observations) -> float:
    """Return the expected calibration error: the mean distance of predicted and observed rate in 15 bins of equal width.

    Of torchmetrics; with weights, its weighted form. Of classes, the probability of the most probable one counts.
    """
    if observed.targets.weights is not None:
        return float(np.abs(_bin_gaps(observed)[0]).sum())
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    predicted, actual = predicted_and_observed(observed)
    return float(
        binary_calibration_error(torch.from_numpy(predicted), torch.from_numpy(actual).long(), n_bins=CALIBRATION_BINS)
    )


def mean_influence(rows: np.ndarray, observed: Observations) -> np.ndarray:
    """Return the influence of each row on the weighted mean of `rows`, [N]."""
    weight = observed.targets.weight
    return weight * (rows - np.average(rows, weights=weight)) / weight.sum()


def rmse_influence(observed: Observations) -> np.ndarray:
    """Return the influence of each row on the RMSE, [N]."""
    root = np.sqrt(compute_mean(squared_errors(observed), observed))
    return (
        mean_influence(squared_errors(observed), observed) / (2.0 * root) if root else np.zeros(len(observed.targets))
    )


def ece_influence(observed: Observations) -> np.ndarray:
    """Return the influence of each row on the ECE where no bin is perfectly calibrated, [N]."""
    gaps, bins = _bin_gaps(observed)
    predicted, actual = predicted_and_observed(observed)
    weight = observed.targets.weight
    return weight * (np.sign(gaps)[bins] * (predicted - actual) - np.abs(gaps).sum()) / weight.sum()


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


def _bin_gaps(observed: Observations) -> tuple[np.ndarray, np.ndarray]:
    """Return predicted minus observed rate of each bin, times its share of the weight, [bins]; and the bin of each row, [N]."""
    predicted, actual = predicted_and_observed(observed)
    bins, weight = assign_bins(predicted), observed.targets.weight
    sums = np.bincount(bins, weights=weight * (predicted - actual), minlength=CALIBRATION_BINS)
    return sums / weight.sum(), bins
