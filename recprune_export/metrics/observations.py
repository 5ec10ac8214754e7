"""`Observations`: the answers of a model beside the labels of the rows that have them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from recprune_export.data.encoding.encoder import Request
from recprune_export.data.labels import LabelKind
from recprune_export.data.rows import Rows
from recprune_export.data.sequences import NEXT_ITEM
from recprune_export.metrics.ranking_metrics import rank_targets

# By label: the probability of 1 or a number, shape [B]; of classes the probability of each, shape [B, k]; for a ranking,
# under NEXT_ITEM, a score for each item, shape [B, I].
LabelPredictor = Callable[[Request], Mapping[str, np.ndarray]]
BATCH_SIZE = 4096
RANKING_BATCH_SIZE = 512  # a row of scores is as long as the item table


@dataclass(frozen=True)
class Targets:
    """The N rows of a part that have the label.

    `labels` is [N]; `rows`, [N], are their positions among all `total` rows. `weights` are [N], or None where all count
    alike; `groups`, [N], are codes from 0, or `NO_GROUP` without one.
    """

    label: str
    kind: LabelKind
    labels: np.ndarray
    rows: np.ndarray
    total: int
    weights: np.ndarray | None = None
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def weight(self) -> np.ndarray:
        """The weight of each row, [N], 1 where none is given."""
        return np.ones(len(self)) if self.weights is None else self.weights.astype(np.float64)

    def take(self, indices: np.ndarray) -> "Targets":
        """Return the values at `indices`; their positions stay those among all rows."""
        weights, groups = (None if a is None else a[indices] for a in (self.weights, self.groups))
        return Targets(self.label, self.kind, self.labels[indices], self.rows[indices], self.total, weights, groups)


@dataclass(frozen=True)
class Observations:
    """Targets with the predictions for them.

    `predictions` are probabilities of 1 or numbers, [N]; probabilities of k classes, [N, k]; or for a ranking the position
    of the target among the items, from 0, [N], beside `scores`, those of the target, [N].
    """

    targets: Targets
    predictions: np.ndarray
    scores: np.ndarray | None = None

    def take(self, indices: np.ndarray) -> "Observations":
        """Return the observations at `indices`."""
        scores = None if self.scores is None else self.scores[indices]
        return Observations(self.targets.take(indices), self.predictions[indices], scores)

    def same_answers(self, other: "Observations") -> bool:
        """Return whether the other model gave the same answers, bit for bit."""
        scores = self.scores is None or other.scores is None or np.array_equal(self.scores, other.scores)
        return scores and np.array_equal(self.predictions, other.predictions)

    def select(self, mask: np.ndarray) -> "Observations":
        """Return the observations of the rows in `mask`, bool over all rows of the part."""
        return self.take(np.flatnonzero(mask[self.targets.rows]))


def read_targets(rows: Rows, kinds: Mapping[str, LabelKind]) -> dict[str, Targets]:
    """Return the rows that have each label: it is NaN in `rows` where it is missing, and rows of weight 0 do not count."""
    targets = {}
    for label, kind in kinds.items():
        labels = rows.labels[label]
        whole = Targets(label, kind, labels, np.arange(len(labels)), len(labels), rows.weights, rows.groups)
        counts = np.ones(len(labels), dtype=bool) if kind is LabelKind.NEXT_ITEM else ~np.isnan(labels)
        if rows.weights is not None:
            counts &= rows.weights > 0
        targets[label] = whole if counts.all() else whole.take(np.flatnonzero(counts))
    return targets


def observe(predict: LabelPredictor, rows: Rows, kinds: Mapping[str, LabelKind]) -> dict[str, Observations]:
    """Return the answers of a model to all rows beside each label."""
    targets = read_targets(rows, kinds)
    if NEXT_ITEM in kinds:
        return {NEXT_ITEM: _observe_ranking(predict, rows, targets[NEXT_ITEM])}
    outputs: dict[str, list[np.ndarray]] = {label: [] for label in kinds}
    for batch in rows.batches(BATCH_SIZE):
        answer = predict(batch.inputs)
        for label, chunks in outputs.items():
            chunk = np.asarray(answer[label], dtype=np.float64)
            chunks.append(chunk if kinds[label] is LabelKind.CLASSES else chunk.reshape(-1))
    return {label: Observations(targets[label], np.concatenate(c)[targets[label].rows]) for label, c in outputs.items()}


def _observe_ranking(predict: LabelPredictor, rows: Rows, targets: Targets) -> Observations:
    """Return the position of the target of each row in the ranking of all items but the excluded ones."""
    positions, target_scores = [], []
    for batch in rows.batches(RANKING_BATCH_SIZE):
        assert batch.excluded_items is not None
        excluded_row = np.repeat(np.arange(len(batch)), batch.excluded_items.lengths)
        scores, target = np.asarray(predict(batch.inputs)[NEXT_ITEM]), batch.labels[NEXT_ITEM]
        positions.append(rank_targets(scores, target, excluded_row, batch.excluded_items.values))
        target_scores.append(scores[np.arange(len(batch)), target])
    ranks, scores = np.concatenate(positions), np.concatenate(target_scores)
    return Observations(targets, ranks[targets.rows], scores[targets.rows])
