"""`paired_change`: the change of a metric between two models on the same rows, with a confidence interval."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from recprune_export.codec import DictMixin, decode
from recprune_export.data.rows import Rows
from recprune_export.data.sequences import NEXT_ITEM
from recprune_export.evidence import Estimate
from recprune_export.training._evaluate import BATCH_SIZE, LabelPredictor, predict_ranks
from recprune_export.training.metrics import TOP

MAX_COUNTS_IN_MEMORY = 1 << 24  # counts of rows in memory at a time: docs/decisions/paired-bootstrap.md


@dataclass(frozen=True)
class MetricChange(DictMixin):
    """A metric of two models on the same rows, more is better, and the 95 % interval of `after` - `before`.

    `error` is the standard error of `after` over samples of rows; `rows` is the number of rows.
    """

    ENCODED = ("metric", "before", "after", "interval", "error", "rows")

    metric: str
    before: float
    after: float
    low: float
    high: float
    error: float
    rows: int = 0

    @property
    def change(self) -> float:
        """The difference of the two metrics."""
        return self.after - self.before

    @property
    def greater_is_better(self) -> bool:
        """Whether more of the metric is better."""
        return True

    @property
    def loss(self) -> Estimate:
        """How much worse `after` is."""
        return Estimate(-self.change, -self.high, -self.low)

    @property
    def interval(self) -> tuple[float, float]:
        """Its ends, with a confidence of 95 %."""
        return self.low, self.high

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the values that `to_dict` returned. Raises `ValueError` or `KeyError` if they are of another form."""
        low, high = values["interval"]
        return decode(cls, {**values, "low": low, "high": high})


def paired_change(before: LabelPredictor, after: LabelPredictor, rows: Rows, seed: int = 0) -> MetricChange:
    """Compare the metric that selects the best epoch: the mean AUC over labels, or NDCG@10.

    The interval is that of a bootstrap over rows, the same rows for both models (Efron and Tibshirani 1993, chapter 8): the
    difficulty of the rows cancels.
    """
    resamples = 400
    rng = np.random.default_rng(seed)
    whole = np.ones((1, len(rows)), dtype=np.int64)
    if NEXT_ITEM in rows.labels:
        name, measures = f"ndcg@{TOP}", [_mean_gain(model, rows) for model in (before, after)]
    else:
        name = "auc" if len(rows.labels) == 1 else "mean auc"
        measures = [_mean_area(model, rows) for model in (before, after)]
    first, second = (float(measure(whole)[0]) for measure in measures)
    resampled: list[tuple[np.ndarray, ...]] = []
    for size in _chunk_sizes(resamples, max(1, MAX_COUNTS_IN_MEMORY // len(rows))):
        counts = rng.multinomial(len(rows), np.full(len(rows), 1.0 / len(rows)), size=size)
        resampled.append(tuple(measure(counts) for measure in measures))
    resampled_before, resampled_after = (np.concatenate(chunks) for chunks in zip(*resampled, strict=True))
    low, high = np.percentile(resampled_after - resampled_before, (2.5, 97.5))
    return MetricChange(name, first, second, float(low), float(high), float(resampled_after.std()), len(rows))


def _chunk_sizes(count: int, most: int) -> list[int]:
    """Divide `count` into chunks of at most `most`.

    >>> _chunk_sizes(10, 4)
    [4, 4, 2]
    """
    return [min(most, count - start) for start in range(0, count, most)]


_Measure = Callable[[np.ndarray], np.ndarray]  # count of each row, [resamples, rows] -> metric, [resamples]


def _mean_gain(model: LabelPredictor, rows: Rows) -> _Measure:
    positions = predict_ranks(model, rows).numpy()
    gains = np.where(positions < TOP, 1.0 / np.log2(positions + 2.0), 0.0)
    return lambda counts: counts @ gains / counts.sum(1)


def _mean_area(model: LabelPredictor, rows: Rows) -> _Measure:
    outputs: dict[str, list[np.ndarray]] = {label: [] for label in rows.labels}
    for batch in rows.batches(BATCH_SIZE):
        answer = model(batch.inputs)
        for label, chunks in outputs.items():
            chunks.append(np.asarray(answer[label], dtype=np.float64).reshape(-1))
    areas = [_area(np.concatenate(chunks), rows.labels[label]) for label, chunks in outputs.items()]
    return lambda counts: np.mean([area(counts) for area in areas], axis=0)


def _area(probabilities: np.ndarray, labels: np.ndarray) -> _Measure:
    """Return the area under the ROC curve of weighted rows: the weighted share of pairs in order, ties counted as half."""
    distinct, level = np.unique(probabilities, return_inverse=True)
    positive = np.asarray(labels) > 0.5

    def area(counts: np.ndarray) -> np.ndarray:
        areas = np.empty(len(counts))
        for index, count in enumerate(counts):
            positives, negatives = (
                np.bincount(level[rows], weights=count[rows], minlength=len(distinct)) for rows in (positive, ~positive)
            )
            lower = negatives.cumsum() - negatives / 2.0
            areas[index] = (positives * lower).sum() / max(positives.sum() * negatives.sum(), 1.0)
        return areas

    return area
