"""The baseline outputs without a model, which a trained one must surpass: label means, and items by their frequency."""

from collections.abc import Mapping

import numpy as np

from recprune_export.data.encoding.encoder import Request
from recprune_export.data.histories.history_source import HistorySource, count_items
from recprune_export.data.label_moments import RowMoments
from recprune_export.data.sequences import NEXT_ITEM
from recprune_export.metrics._paired_change import paired_change
from recprune_export.metrics.deciding_metric import DecidingMetric
from recprune_export.metrics.observations import LabelPredictor, Observations


def predict_label_means(train: RowMoments) -> LabelPredictor:
    """Return a predictor that answers each row with the mean of each label over the training rows."""
    means = {label: moments.mean for label, moments in train.labels.items()}

    def predict(request: Request) -> Mapping[str, np.ndarray]:
        rows = len(next(iter(request.values())))
        return {label: np.full(rows, mean) for label, mean in means.items()}

    return predict


def predict_item_frequencies(histories: HistorySource, items: int) -> LabelPredictor:
    """Return a predictor that scores the `items` rows of an item table by how often the training histories hold them.

    Items of equal frequency are ordered by id. Memory of an answer: one row of scores, which all rows of a request share.
    """
    counts = count_items(histories, items) - np.arange(items) / items

    def predict(request: Request) -> Mapping[str, np.ndarray]:
        rows = len(next(iter(request.values())))
        return {NEXT_ITEM: np.broadcast_to(counts, (rows, items))}

    return predict


def describe_failure_to_learn(
    deciding: DecidingMetric, baseline: Mapping[str, Observations], trained: Mapping[str, Observations]
) -> str | None:
    """Return a sentence if the trained model is not significantly better than the baseline on the validation rows, otherwise None.

    It is significantly better if the whole paired 95 % interval is on that side. Time and memory: those of `paired_change`.
    """
    change = paired_change(deciding, baseline, trained)
    if change.loss.high < 0.0:
        return None
    sequential = NEXT_ITEM in deciding.labels
    answers = "the most frequent items for everyone" if sequential else "the mean of the label for every row"
    reasons = (
        "the roles of the columns, the order of the log, --learning-rate, --epochs, and the number of users"
        if sequential
        else "the roles of the columns, the label, --learning-rate, --epochs, and the number of rows"
    )
    return (
        f"The model is not measurably better than a trivial baseline: the validation {deciding.name} is {change.after:.4f}, and "
        f"{change.before:.4f} for {answers} (difference {change.change:+.4f} [{change.low:+.4f}, {change.high:+.4f}]). Check {reasons}."
    )
