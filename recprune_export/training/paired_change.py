"""`paired_change`: how much a metric differs between two models on the same rows, with an interval."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from recprune_export.codec import DictMixin, decode
from recprune_export.data.rows import Rows
from recprune_export.data.sequences import NEXT_ITEM
from recprune_export.training.evaluate import BATCH_SIZE, LabelPredictor, predict_ranks
from recprune_export.training.metrics import TOP

RESAMPLES = 400
AT_ONCE = 1 << 24  # counts of rows that are in memory at a time


@dataclass(frozen=True)
class MetricChange(DictMixin):
    """A metric of two models on the same rows, more is better, and the 95 % interval of `after` - `before`.

    `error` is the standard error of `after` itself: that of other rows of the same kind. `rows` is how many there were.
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
        """The difference itself."""
        return self.after - self.before

    @property
    def interval(self) -> tuple[float, float]:
        """Its ends, with a confidence of 95 %."""
        return self.low, self.high

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote. Raises `ValueError` or `KeyError` where it did not."""
        low, high = values["interval"]
        return decode(cls, {**values, "low": low, "high": high})


def paired_change(before: LabelPredictor, after: LabelPredictor, rows: Rows, seed: int = 0) -> MetricChange:
    """Compare the metric by which epochs are chosen: the mean AUC over labels, or NDCG@10.

    The interval is that of a bootstrap over rows, the same rows for both models (Efron and Tibshirani 1993, chapter 8): what
    both find hard cancels.
    """
    rng = np.random.default_rng(seed)
    whole = np.ones((1, len(rows)), dtype=np.int64)
    if NEXT_ITEM in rows.labels:
        name, measures = f"ndcg@{TOP}", [_mean_gain(model, rows) for model in (before, after)]
    else:
        name = "auc" if len(rows.labels) == 1 else "mean auc"
        measures = [_mean_area(model, rows) for model in (before, after)]
    first, second = (float(measure(whole)[0]) for measure in measures)
    drawn: list[tuple[np.ndarray, ...]] = []
    for size in _chunk_sizes(RESAMPLES, max(1, AT_ONCE // len(rows))):
        counts = rng.multinomial(len(rows), np.full(len(rows), 1.0 / len(rows)), size=size)
        drawn.append(tuple(measure(counts) for measure in measures))
    one, other = (np.concatenate(found) for found in zip(*drawn, strict=True))
    low, high = np.percentile(other - one, (2.5, 97.5))
    return MetricChange(name, first, second, float(low), float(high), float(other.std()), len(rows))


def _chunk_sizes(count: int, most: int) -> list[int]:
    """Divide `count` into parts of at most `most`.

    >>> _chunk_sizes(10, 4)
    [4, 4, 2]
    """
    return [min(most, count - start) for start in range(0, count, most)]


_Measure = Callable[[np.ndarray], np.ndarray]  # how often each row counts, [resamples, rows] -> metric [resamples]


def _mean_gain(model: LabelPredictor, rows: Rows) -> _Measure:
    found = predict_ranks(model, rows).numpy()
    gains = np.where(found < TOP, 1.0 / np.log2(found + 2.0), 0.0)
    return lambda counts: counts @ gains / counts.sum(1)


def _mean_area(model: LabelPredictor, rows: Rows) -> _Measure:
    answers: dict[str, list[np.ndarray]] = {label: [] for label in rows.labels}
    for batch in rows.batches(BATCH_SIZE):
        answer = model(batch.inputs)
        for label, parts in answers.items():
            parts.append(np.asarray(answer[label], dtype=np.float64).reshape(-1))
    areas = [_area(np.concatenate(parts), rows.labels[label]) for label, parts in answers.items()]
    return lambda counts: np.mean([area(counts) for area in areas], axis=0)


def _area(probabilities: np.ndarray, labels: np.ndarray) -> _Measure:
    """The area under the ROC curve of weighted rows: each positive row beats the negative ones below it, half of those beside it."""
    distinct, place = np.unique(probabilities, return_inverse=True)
    positive = np.asarray(labels) > 0.5

    def area(counts: np.ndarray) -> np.ndarray:
        found = np.empty(len(counts))
        for number, count in enumerate(counts):
            above, below = (
                np.bincount(place[of], weights=count[of], minlength=len(distinct)) for of in (positive, ~positive)
            )
            beaten = below.cumsum() - below / 2.0
            found[number] = (above * beaten).sum() / max(above.sum() * below.sum(), 1.0)
        return found

    return area
