"""Detection of fields that leak the label, such as the rating from which a label was derived."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.data.labels import LabelKind, infer_label_kind

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Leak:
    """A label that one field predicts almost perfectly: the AUC, or for a numeric label the rank correlation."""

    label: str
    measure: str
    value: float


def find_leaking_fields(sample: "pl.DataFrame", labels: Sequence[str], fields: Sequence[str]) -> Mapping[str, Leak]:
    """Return the fields that rank one of `labels` almost perfectly; labels are numbers, null where they are missing.

    The mean label of each value is computed on even rows and evaluated on odd ones, so that the AUC of a field with many
    ids is not overestimated.
    """
    import polars as pl

    threshold = 0.999  # AUC of the mean label by value; no legitimate field of a recommender comes near it
    rows = sample.with_row_index("__row").with_columns((pl.col("__row") % 2 == 0).alias("__even"))
    even, odd = rows.filter(pl.col("__even")), rows.filter(~pl.col("__even"))
    leaks: dict[str, Leak] = {}
    for label in labels:
        known = sample[label].drop_nulls().cast(pl.Float64)
        binary = infer_label_kind(known.to_numpy()) is LabelKind.BINARY
        average = float(known.mean() or 0.0)  # type: ignore[arg-type]
        measure, agreement = ("AUC", _auc) if binary else ("rank correlation", _rank_correlation)
        for name in fields:
            means = even.group_by(name).agg(pl.col(label).cast(pl.Float64).mean().alias("__mean"))
            guess = odd.select(name, label).drop_nulls(label)
            guess = guess.join(means, on=name, how="left", nulls_equal=True, maintain_order="left")
            scores = guess["__mean"].fill_null(0.5 if binary else average).to_numpy()
            truth = guess[label].cast(pl.Float64).to_numpy()
            value = agreement(scores, truth)
            if guess[name].dtype.is_numeric():  # values that rarely repeat may rank the label by their order
                by_order = agreement(guess[name].cast(pl.Float64).fill_null(0.0).to_numpy(), truth)
                value = max(value, by_order, 1.0 - by_order if binary else -by_order)
            if value > threshold:
                leaks.setdefault(name, Leak(label, measure, value))
    return leaks


def _auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the area under the ROC curve by ranks, ties counted as half; .5 if one class is absent."""
    positives = labels == 1.0
    n_positive, n_negative = int(positives.sum()), int((~positives).sum())
    if not n_positive or not n_negative:
        return 0.5
    ranks = _ranks(scores)
    return float((ranks[positives].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def _rank_correlation(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return Spearman's rank correlation, ties at their mean rank; 0 if one of both is constant."""
    first, second = (ranks - ranks.mean() for ranks in (_ranks(scores), _ranks(labels))) if len(labels) else ((), ())
    scale = float(np.sqrt(np.square(first).sum() * np.square(second).sum()))
    return float(np.dot(first, second)) / scale if scale else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value from 1 on, the mean rank for ties."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks
