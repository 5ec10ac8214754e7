"""Metrics of the order of rows with 0/1 labels: AUC, PR-AUC, and GAUC by a group column.

Each function of influence returns the derivative of the metric with respect to the number of copies of each row: the values
behind DeLong's variance (DeLong et al. 1988, "Comparing the Areas under Two or More Correlated ROC Curves") and the
infinitesimal jackknife. None takes more time than sorting. All are exact for any number of rows: beyond `MEMORY_ROWS` the sorted
predictions and the sums over them are in files (`make_row_array`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from recprune_export.data.group_codes import NO_GROUP
from recprune_export.metrics import row_arrays
from recprune_export.metrics.observations import Observations
from recprune_export.metrics.pointwise_metrics import compute_influence, has_torchmetrics_form
from recprune_export.metrics.row_arrays import (
    count_by_code,
    count_codes,
    cumulate_in_place,
    make_row_array,
    sort_rows,
    split_rows_into_pieces,
    sum_over_rows,
)


def compute_auc(observed: Observations) -> float:
    """Return the area under the ROC curve, by torchmetrics or as the weighted fraction of pairs in order."""
    if not has_torchmetrics_form(observed):
        return _Levels.of(observed).area
    import torch
    from torchmetrics.functional.classification import binary_auroc

    labels = torch.from_numpy(observed.targets.labels).long()
    return float(binary_auroc(torch.from_numpy(observed.predictions), labels, thresholds=None))


def compute_pr_auc(observed: Observations) -> float:
    """Return the average precision, by torchmetrics or in its weighted form."""
    if not has_torchmetrics_form(observed):
        return _Precisions.of(observed).average
    import torch
    from torchmetrics.functional.classification import binary_average_precision

    labels = torch.from_numpy(observed.targets.labels).long()
    return float(binary_average_precision(torch.from_numpy(observed.predictions), labels, thresholds=None))


def compute_gauc(observed: Observations) -> float:
    """Return the mean AUC of groups with both classes, weighted by the rows of each (Zhou et al. 2018, DIN, section 6.2)."""
    areas = _group_areas(observed)
    return float(np.average(areas.area, weights=areas.weight))


def auc_influence(observed: Observations) -> np.ndarray:
    """Return the influence of each row on the AUC, [N].

    The placement of a positive row is the fraction of negative rows below it, that of a negative row the fraction of positive rows above
    it.
    """
    levels = _Levels.of(observed)
    total = observed.targets.total_weight

    def rows(piece: Observations) -> np.ndarray:
        level, positive = levels.find(piece.predictions), _positive(piece)
        below = levels.share(levels.negatives_below, level, levels.negatives)
        above = 1.0 - levels.share(levels.positives_below, level, levels.positives)
        own = np.where(positive, levels.positives, levels.negatives)
        return (np.where(positive, below, above) - levels.area) * total / own

    return compute_influence(rows, observed)


def pr_auc_influence(observed: Observations) -> np.ndarray:
    """Return the influence of each row on the average precision, [N]."""
    precisions = _Precisions.of(observed)
    return compute_influence(lambda piece: precisions.influence(piece) * observed.targets.total_weight, observed)


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
    size = count_codes(groups)
    all_rows = count_by_code(lambda piece: groups[piece], len(groups), size)
    positive = count_by_code(lambda piece: groups[piece][labels[piece] > 0.5], len(groups), size)
    return int(((positive > 0) & (positive < all_rows)).sum())


def _positive(observed: Observations) -> np.ndarray:
    return observed.targets.labels > 0.5


@dataclass(frozen=True)
class _Levels:
    """The rows by the levels of their predictions; each distinct prediction is a level.

    `ordered` are the predictions in order, [N]; the position of a level is that of its first row. `positives_below` and
    `negatives_below`, [N + 1], are the weights of the rows below each position, so that the weight of a level from position p to before q
    is a difference of two of them.
    """

    ordered: np.ndarray
    positives_below: np.ndarray
    negatives_below: np.ndarray

    @classmethod
    def of(cls, observed: Observations) -> Self:
        ordered = sort_rows(observed.predictions)
        sums = [make_row_array(len(ordered) + 1, np.float64) for _ in range(2)]
        for _, piece in observed.pieces:
            level, weight, positive = _find_places(ordered, piece.predictions), piece.targets.weight, _positive(piece)
            for of_class, rows in zip(sums, (positive, ~positive), strict=True):
                np.add.at(of_class, level[rows] + 1, weight[rows])
        for of_class in sums:
            cumulate_in_place(of_class)
        return cls(ordered, *sums)

    @property
    def positives(self) -> float:
        """The weight of all positive rows."""
        return float(self.positives_below[-1])

    @property
    def negatives(self) -> float:
        """The weight of all negative rows."""
        return float(self.negatives_below[-1])

    def find(self, predictions: np.ndarray) -> np.ndarray:
        """Return the level of each prediction."""
        return _find_places(self.ordered, predictions)

    def share(self, below: np.ndarray, level: np.ndarray, total: float) -> np.ndarray:
        """Return the fraction of a class below each level, including half of the rows of the level."""
        return np.asarray((below[level] + below[level + 1]) / 2.0 / total)

    def precision(self, level: np.ndarray | slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for each level the weight of its positive rows, the precision at or above it, and the weight of all rows there."""
        after = slice(level.start + 1, level.stop + 1) if isinstance(level, slice) else level + 1
        positives = self.positives - self.positives_below[level]
        selected = positives + self.negatives - self.negatives_below[level]
        at_level = self.positives_below[after] - self.positives_below[level]
        selected = np.where(selected > 0.0, selected, 1.0)  # no value at positions without a level
        return at_level, positives / selected, selected

    @cached_property
    def area(self) -> float:
        """The fraction of pairs of a positive and a negative row that are in order; ties count half."""

        def pairs(piece: slice) -> np.ndarray:
            after = slice(piece.start + 1, piece.stop + 1)
            at_level = self.positives_below[after] - self.positives_below[piece]
            return np.asarray(at_level * (self.negatives_below[piece] + self.negatives_below[after]) / 2.0)

        return sum_over_rows(pairs, len(self.ordered)) / self.positives / self.negatives


def _find_places(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the first position of each value in `ordered`; values are looked up in order, so that pages are read one after the other."""
    order = values.argsort()
    places = np.empty(len(values), dtype=np.int64)
    places[order] = np.searchsorted(ordered, values[order])
    return places


@dataclass(frozen=True)
class _Precisions:
    """The average precision, with the terms of its influences at each level, [N].

    With the precision P of the rows at or above each level: AP is the mean of P over positive rows. A copy of a row changes
    the number of positive rows, and the precision of every positive row at or below it. `share` and `precision_share` are
    sums over the positive rows at or below each level of 1 / selected and of precision / selected.
    """

    levels: _Levels
    average: float
    share: np.ndarray
    precision_share: np.ndarray

    @classmethod
    def of(cls, observed: Observations) -> Self:
        levels = _Levels.of(observed)
        share, precision_share = (make_row_array(len(levels.ordered), np.float64) for _ in range(2))
        total = 0.0
        for piece in split_rows_into_pieces(len(levels.ordered)):
            at_level, precision, selected = levels.precision(piece)
            share[piece] = at_level / selected
            precision_share[piece] = at_level * precision / selected
            total += float((at_level * precision).sum())
        cumulate_in_place(share)
        cumulate_in_place(precision_share)
        return cls(levels, total / levels.positives, share, precision_share)

    def influence(self, piece: Observations) -> np.ndarray:
        """Return the influence of the rows of a piece, without their weights."""
        level = self.levels.find(piece.predictions)
        precision = self.levels.precision(level)[1]
        influence = np.where(_positive(piece), precision - self.average + self.share[level], 0.0)
        return np.asarray((influence - self.precision_share[level]) / self.levels.positives)


@dataclass(frozen=True)
class _GroupAreas:
    """AUC and weight of each group with both classes, [groups]; `group` is its code."""

    group: np.ndarray
    area: np.ndarray
    weight: np.ndarray


def _group_areas(observed: Observations) -> _GroupAreas:
    """Compute the AUC of the groups, as many together as fit into memory.

    Memory: a few numbers for each group, and the rows of one piece, or of one group that is larger.
    """
    areas = [_group_areas_in_memory(part) for part in _divide_by_group(observed)]
    return _GroupAreas(
        *(np.concatenate([getattr(part, name) for part in areas]) for name in ("group", "area", "weight"))
    )


def _divide_by_group(observed: Observations) -> Iterator[Observations]:
    """Yield the rows that have a group, in parts of whole groups."""
    targets = observed.targets
    assert targets.groups is not None
    if len(targets) <= row_arrays.PIECE_ROWS:
        yield observed
        return
    all_groups = targets.groups
    sizes = count_by_code(lambda piece: all_groups[piece], len(targets), count_codes(all_groups))
    starts = np.append(0, sizes.cumsum())
    next_place, order = starts[:-1].copy(), make_row_array(int(starts[-1]), np.int64)  # the rows, group by group
    for place, piece in observed.pieces:
        groups = _known_groups(piece)
        rows = np.flatnonzero(groups != NO_GROUP)
        rows = rows[groups[rows].argsort(kind="stable")]
        present, first, counts = np.unique(groups[rows], return_index=True, return_counts=True)
        within = np.arange(len(rows)) - np.repeat(first, counts)
        order[np.repeat(next_place[present], counts) + within] = place.start + rows
        next_place[present] += counts
    group = 0
    while group < len(sizes):
        following = max(
            group + 1, int(np.searchsorted(starts, starts[group] + row_arrays.PIECE_ROWS, side="right")) - 1
        )
        if starts[following] > starts[group]:
            yield observed.take(np.sort(order[starts[group] : starts[following]]))
        group = following


def _known_groups(piece: Observations) -> np.ndarray:
    assert piece.targets.groups is not None
    return piece.targets.groups


def _group_areas_in_memory(observed: Observations) -> _GroupAreas:
    """Compute the AUC of all groups together: rows are sorted by group and prediction, and sums start again in each group."""
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
