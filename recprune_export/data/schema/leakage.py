"""Detection of fields that leak the label, such as the rating from which a label was derived."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl


def find_leaking_fields(
    sample: "pl.DataFrame", labels: Sequence[str], fields: Sequence[str]
) -> Mapping[str, tuple[str, float]]:
    """Return the fields that rank one of `labels` almost perfectly, with that label and the AUC.

    The mean label of each value is computed on even rows and evaluated on odd ones, so that the AUC of a field with many
    ids is not overestimated.
    """
    import polars as pl

    threshold = 0.999  # AUC of the mean label by value; no legitimate field of a recommender comes near it
    rows = sample.with_row_index("__row").with_columns((pl.col("__row") % 2 == 0).alias("__even"))
    even, odd = rows.filter(pl.col("__even")), rows.filter(~pl.col("__even"))
    leaks: dict[str, tuple[str, float]] = {}
    for name in fields:
        for label in labels:
            means = even.group_by(name).agg(pl.col(label).cast(pl.Float64).mean().alias("__mean"))
            guess = odd.select(name, label).join(means, on=name, how="left", nulls_equal=True, maintain_order="left")
            scores = guess["__mean"].fill_null(0.5).to_numpy()
            truth = guess[label].cast(pl.Float64).to_numpy()
            area = _auc(scores, truth)
            if guess[name].dtype.is_numeric():  # values that hardly repeat may rank the label by their order
                by_order = _auc(guess[name].cast(pl.Float64).fill_null(0.0).to_numpy(), truth)
                area = max(area, by_order, 1.0 - by_order)
            if area > threshold:
                leaks.setdefault(name, (label, area))
    return leaks


def _auc(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the area under the ROC curve by ranks, ties counted as half; .5 if one class is absent."""
    positives = labels > 0.5
    n_positive, n_negative = int(positives.sum()), int((~positives).sum())
    if not n_positive or not n_negative:
        return 0.5
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positives].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))
