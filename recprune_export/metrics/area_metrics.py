"""Metrics of the order of rows with 0/1 labels: AUC, PR-AUC, and GAUC by a group column.

Each function of influence returns the derivative of the metric with respect to the number of copies of each row: the values
behind DeLong's variance (DeLong et al. 1988, "Comparing the Areas under Two or More Correlated ROC Curves") and the
infinitesimal jackknife. Sorting is the most that any of them does.
"""

from dataclasses import dataclass

import numpy as np

from recprune_export.data.group_codes import NO_GROUP
from recprune_export.metrics.observations import Observations


def compute_auc(observed: Observations) -> float:
    """Return the area under the ROC curve, of torchmetrics; with weights, the weighted share of pairs in order."""
    if observed.targets.weights is not None:
        return _auc_placements(observed).area
    import torch
    from torchmetrics.functional.classification import binary_auroc

    labels = torch.from_numpy(observed.targets.labels).long()
    return float(binary_auroc(torch.from_numpy(observed.predictions), labels, thresholds=None))


def compute_pr_auc(observed: Observations) -> float:
    """Return the average precision, of torchmetrics; with weights, its weighted form."""
    if observed.targets.weights is not None:
        return _average_precision(observed)[0]
    import torch
    from torchmetrics.functional.classification import binary_average_precision

    labels = torch.from_numpy(observed.targets.labels).long()
    return float(binary_average_precision(torch.from_numpy(observed.predictions), labels, thresholds=None))


def compute_gauc(observed: Observations) -> float:
    """Return the mean AUC of groups with both classes, weighted by the rows of each (Zhou et al. 2018, DIN, section 6.2)."""
    areas = _group_areas(observed)
    return float(np.average(areas.area, weights=areas.weight))


def auc_influence(observed: Observations) -> np.ndarray:
    """Return the influence of each row on the AUC, [N]."""
    placements, weight = _auc_placements(observed), observed.targets.weight
    positive = _positive(observed)
    total = np.where(positive, weight[positive].sum(), weight[~positive].sum())
    return weight * (placements.placement - placements.area) / total


def pr_auc_influence(observed: Observations) -> np.ndarray:
    """Return the influence of each row on the average precision, [N]."""
    return _average_precision(observed)[1]


def gauc_influence(observed: Observations) -> np.ndarray:
    """Return the influence of each group on the GAUC, [largest group code + 1]."""
    areas = _group_areas(observed)
    influence = np.zeros(int(areas.group.max()) + 1)
    influence[areas.group] = areas.weight * (areas.area - np.average(areas.area, weights=areas.weight))
    return influence / areas.weight.sum()


def count_mixed_groups(labels: np.ndarray, groups: np.ndarray) -> int:
    """Return the number of groups that have both classes; rows without a group do not count.

    >>> count_mixed_groups(np.array([0.0, 1.0, 1.0, 1.0]), np.array([0, 0, 1, -1]))
    1
    """
    known = groups != NO_GROUP
    if not known.any():
        return 0
    positive, all_rows = (
        np.bincount(groups[rows], minlength=groups.max() + 1) for rows in ((labels > 0.5) & known, known)
    )
    return int(((positive > 0) & (positive < all_rows)).sum())


@dataclass(frozen=True)
class _Placements:
    """`placement`: of a positive row the share of negative rows below it, of a negative one that of positive rows above, [N]."""

    area: float
    placement: np.ndarray


def _positive(observed: Observations) -> np.ndarray:
    return observed.targets.labels > 0.5


def _auc_placements(observed: Observations) -> _Placements:
    distinct, level = np.unique(observed.predictions, return_inverse=True)
    positive, weight = _positive(observed), observed.targets.weight
    positives, negatives = (
        np.bincount(level[rows], weights=weight[rows], minlength=len(distinct)) for rows in (positive, ~positive)
    )
    below = (negatives.cumsum() - negatives / 2.0) / negatives.sum()
    above = 1.0 - (positives.cumsum() - positives / 2.0) / positives.sum()
    area = float((positives * below).sum() / positives.sum())
    return _Placements(area, np.where(positive, below[level], above[level]))


def _average_precision(observed: Observations) -> tuple[float, np.ndarray]:
    """Return the average precision and its influences.

    With the precision P of the rows at or above each level: AP is the mean of P over positive rows. A copy of a row changes
    the number of positive rows, and the precision of every positive row at or below it.
    """
    distinct, level = np.unique(-observed.predictions, return_inverse=True)  # from the largest down
    positive, weight = _positive(observed), observed.targets.weight
    all_rows = np.bincount(level, weights=weight, minlength=len(distinct))
    positives = np.bincount(level[positive], weights=weight[positive], minlength=len(distinct))
    selected, total = all_rows.cumsum(), positives.sum()
    precision = positives.cumsum() / selected
    average = float((positives * precision).sum() / total)
    # Sums over the positive rows at or below each level of 1 / selected and of precision / selected.
    share = (positives / selected)[::-1].cumsum()[::-1]
    precision_share = (positives * precision / selected)[::-1].cumsum()[::-1]
    influence = np.where(positive, precision[level] - average + share[level], 0.0) - precision_share[level]
    return average, weight * influence / total


@dataclass(frozen=True)
class _GroupAreas:
    """AUC and weight of each group with both classes, [groups]; `group` is its code."""

    group: np.ndarray
    area: np.ndarray
    weight: np.ndarray


def _group_areas(observed: Observations) -> _GroupAreas:
    """Compute the AUC of all groups at once: rows are sorted by group and prediction, sums begin anew in each group."""
    assert observed.targets.groups is not None
    known = np.flatnonzero(observed.targets.groups != NO_GROUP)
    order = known[np.lexsort((observed.predictions[known], observed.targets.groups[known]))]
    groups, predictions = observed.targets.groups[order], observed.predictions[order]
    weight, positive = observed.targets.weight[order], _positive(observed)[order]
    new_group = np.append(True, groups[1:] != groups[:-1])
    level = np.append(True, new_group[1:] | (predictions[1:] != predictions[:-1])).cumsum() - 1
    positives, negatives = (np.bincount(level, weights=weight * rows) for rows in (positive, ~positive))
    group_of_level = (new_group.cumsum() - 1)[np.append(True, level[1:] != level[:-1])]
    of_group = [np.bincount(group_of_level, weights=values) for values in (positives, negatives)]
    before = np.append(0.0, of_group[1].cumsum()[:-1])[group_of_level]
    ordered_pairs = np.bincount(group_of_level, weights=positives * (negatives.cumsum() - negatives / 2.0 - before))
    counts = np.bincount(groups, weights=positive), np.bincount(groups)
    codes = groups[new_group]
    mixed = (counts[0][codes] > 0) & (counts[0][codes] < counts[1][codes])
    pairs = of_group[0][mixed] * of_group[1][mixed]
    return _GroupAreas(codes[mixed], ordered_pairs[mixed] / pairs, (of_group[0] + of_group[1])[mixed])
