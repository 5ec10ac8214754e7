"""`Observations`: the outputs of a model with the labels of the rows that have them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recprune_export.data.encoding.encoder import Request
from recprune_export.data.labels import LabelKind
from recprune_export.data.row_source import BATCH_ROWS, RowSource
from recprune_export.data.rows import Rows
from recprune_export.data.sequences import NEXT_ITEM
from recprune_export.metrics.ranking_metrics import rank_targets
from recprune_export.metrics.row_arrays import (
    RowArrayWriter,
    are_equal,
    make_row_array,
    split_rows_into_pieces,
    sum_over_rows,
    take_rows,
)

# By label: the probability of 1 or a number, shape [B]; for classes the probability of each, shape [B, k]; for a
# ranking, under NEXT_ITEM, a score for each item, shape [B, I].
LabelPredictor = Callable[[Request], Mapping[str, np.ndarray]]
RowFilter = Callable[[Request], np.ndarray]  # a request -> a mask of its rows, bool [N]
BATCH_SIZE = 4096
RANKING_BATCH_SIZE = 512  # a row of scores is as long as the item table


@dataclass(frozen=True)
class Targets:
    """The N rows of a part that have the label.

    `labels` is [N]; `rows`, [N], are their positions among all `total` rows. `weights` are [N], or None if all are equal; `groups`, [N],
    are codes from 0, or `NO_GROUP` without one. Arrays of many rows are in files (`make_row_array`).
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
        """The weight of each row, [N], 1 by default; for many rows, use it only for pieces."""
        return np.ones(len(self)) if self.weights is None else self.weights.astype(np.float64)

    @cached_property
    def total_weight(self) -> float:
        """The sum of the weights."""
        return self.sum_over_rows(lambda piece: piece.weight)

    def take(self, indices: np.ndarray | slice) -> "Targets":
        """Return the values at `indices`; their positions remain those among all rows."""
        weights, groups = (None if a is None else a[indices] for a in (self.weights, self.groups))
        return Targets(self.label, self.kind, self.labels[indices], self.rows[indices], self.total, weights, groups)

    def sum_over_rows(self, values: Callable[["Targets"], np.ndarray]) -> float:
        """Return the sum over all rows of the values that `values` computes for the rows of a piece."""
        return sum_over_rows(lambda piece: values(self.take(piece)), len(self))


@dataclass(frozen=True)
class Observations:
    """Targets with the predictions for them.

    `predictions` are probabilities of 1 or numbers, [N]; probabilities of k classes, [N, k]; or for a ranking the position
    of the target among the items, from 0, [N], beside `scores`, those of the target, [N].
    """

    targets: Targets
    predictions: np.ndarray
    scores: np.ndarray | None = None

    def take(self, indices: np.ndarray | slice) -> "Observations":
        """Return the observations at `indices`."""
        scores = None if self.scores is None else self.scores[indices]
        return Observations(self.targets.take(indices), self.predictions[indices], scores)

    @property
    def pieces(self) -> Iterator[tuple[slice, "Observations"]]:
        """The rows in pieces that fit into memory, each with its position."""
        return ((piece, self.take(piece)) for piece in split_rows_into_pieces(len(self.targets)))

    def sum_over_rows(self, values: Callable[["Observations"], np.ndarray]) -> float:
        """Return the sum over all rows of the values that `values` computes for the rows of a piece."""
        return sum_over_rows(lambda piece: values(self.take(piece)), len(self.targets))

    @property
    def has_nan(self) -> bool:
        """Whether the model returned NaN."""
        arrays = [self.predictions, *([] if self.scores is None else [self.scores])]
        return any(
            bool(np.isnan(array[piece]).any()) for array in arrays for piece in split_rows_into_pieces(len(array))
        )

    def same_answers(self, other: "Observations") -> bool:
        """Return whether the other model gave the same outputs, bit for bit."""
        scores = self.scores is None or other.scores is None or are_equal(self.scores, other.scores)
        return scores and are_equal(self.predictions, other.predictions)

    def select(self, mask: np.ndarray) -> "Observations":
        """Return the observations of the rows in `mask`, bool over all rows of the part."""
        targets = self.targets
        chosen_rows = make_row_array(len(targets), bool)
        for piece in split_rows_into_pieces(len(targets)):
            chosen_rows[piece] = mask[targets.rows[piece]]
        arrays = (targets.labels, targets.rows, targets.weights, targets.groups, self.predictions, self.scores)
        labels, rows, weights, groups, predictions, scores = (
            None if a is None else take_rows(a, chosen_rows) for a in arrays
        )
        assert labels is not None and rows is not None and predictions is not None
        chosen = Targets(targets.label, targets.kind, labels, rows, targets.total, weights, groups)
        return Observations(chosen, predictions, scores)


def read_targets(rows: RowSource, kinds: Mapping[str, LabelKind]) -> dict[str, Targets]:
    """Return the rows that have each label: missing labels are NaN in `rows`, and rows of weight 0 do not count."""
    writers = {label: _TargetsWriter(label, kind, len(rows)) for label, kind in kinds.items()}
    for batch in rows.batches(BATCH_ROWS):
        for writer in writers.values():
            writer.add(batch)
    return {label: writer.targets for label, writer in writers.items()}


def observe(
    predict: LabelPredictor, rows: RowSource, kinds: Mapping[str, LabelKind], row_filter: RowFilter | None = None
) -> dict[str, Observations]:
    """Return the outputs of a model for the rows with each label; with `row_filter`, only for the rows that it selects.

    Memory: a batch of rows with its outputs; labels and answers of more than `MEMORY_ROWS` rows are in files.
    """
    writers = {label: _ObservationsWriter(label, kind, len(rows)) for label, kind in kinds.items()}
    for batch in rows.batches(RANKING_BATCH_SIZE if NEXT_ITEM in kinds else BATCH_SIZE):
        chosen = batch if row_filter is None else batch.take(np.flatnonzero(row_filter(batch.inputs)))
        if not len(chosen):
            continue
        answer = predict(chosen.inputs)
        for label, writer in writers.items():
            writer.add(chosen, answer[label])
    return {label: writer.observations for label, writer in writers.items()}


class _TargetsWriter:
    """Collects the rows of batches that have a label, among at most `capacity` rows."""

    def __init__(self, label: str, kind: LabelKind, capacity: int) -> None:
        self._label, self._kind, self._total = label, kind, 0
        self._labels, self._rows, self._weights, self._groups = (RowArrayWriter(capacity) for _ in range(4))

    def add(self, batch: Rows) -> np.ndarray:
        """Add a batch, and return which of its rows count, bool [B]."""
        labels = batch.labels[self._label]
        is_ranking = self._kind is LabelKind.NEXT_ITEM
        counts = np.ones(len(labels), dtype=bool) if is_ranking else ~np.isnan(labels)
        if batch.weights is not None:
            counts &= batch.weights > 0
        self._labels.add(labels[counts])
        self._rows.add(self._total + np.flatnonzero(counts))
        for writer, values in ((self._weights, batch.weights), (self._groups, batch.groups)):
            if values is not None:
                writer.add(values[counts])
        self._total += len(labels)
        return counts

    @property
    def targets(self) -> Targets:
        weights, groups = (None if writer.is_empty else writer.array for writer in (self._weights, self._groups))
        return Targets(self._label, self._kind, self._labels.array, self._rows.array, self._total, weights, groups)


class _ObservationsWriter:
    """Collects the rows of batches that have a label, with the outputs for them."""

    def __init__(self, label: str, kind: LabelKind, capacity: int) -> None:
        self._kind, self._targets = kind, _TargetsWriter(label, kind, capacity)
        self._predictions, self._scores = RowArrayWriter(capacity), RowArrayWriter(capacity)

    def add(self, batch: Rows, answer: np.ndarray) -> None:
        counts = self._targets.add(batch)
        if self._kind is LabelKind.NEXT_ITEM:
            positions, scores = _rank_targets_of(batch, np.asarray(answer))
            self._predictions.add(positions[counts])
            self._scores.add(scores[counts])
            return
        values = np.asarray(answer, dtype=np.float64)
        values = values if self._kind is LabelKind.CLASSES else values.reshape(-1)
        self._predictions.add(values[counts])

    @property
    def observations(self) -> Observations:
        scores = None if self._scores.is_empty else self._scores.array
        return Observations(self._targets.targets, self._predictions.array, scores)


def _rank_targets_of(batch: Rows, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the position of the target of each row in the ranking of all items except the excluded ones, and its score."""
    assert batch.excluded_items is not None
    excluded_row = np.repeat(np.arange(len(batch)), batch.excluded_items.lengths)
    target = batch.labels[NEXT_ITEM]
    positions = rank_targets(scores, target, excluded_row, batch.excluded_items.values)
    return positions, scores[np.arange(len(batch)), target]
