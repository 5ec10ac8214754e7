"""`evaluate`: the metrics of anything that answers requests, PyTorch or ONNX Runtime alike."""

from collections.abc import Callable, Mapping

import numpy as np
import torch

from recprune_export.data.encoding.encoder import Request
from recprune_export.data.rows import Rows
from recprune_export.data.sequences import NEXT_ITEM
from recprune_export.training.metrics import TOP, auc, hit_rate, logloss, ndcg, ranks

# By label: the probability of 1, shape [B]; for a ranking, under NEXT_ITEM, a score for each item, shape [B, I].
LabelPredictor = Callable[[Request], Mapping[str, np.ndarray]]
BATCH_SIZE = 4096
RANKING_BATCH_SIZE = 512  # a row of scores is as long as the item table


def evaluate(predict: LabelPredictor, rows: Rows) -> dict[str, float]:
    """Return `auc` and `logloss`, with the label in front where there are several; or `hr@10` and `ndcg@10`."""
    if NEXT_ITEM in rows.labels:
        return _evaluate_ranking(predict, rows)
    answers: dict[str, list[np.ndarray]] = {label: [] for label in rows.labels}
    for batch in rows.batches(BATCH_SIZE):
        answer = predict(batch.inputs)
        for label, parts in answers.items():
            parts.append(np.asarray(answer[label], dtype=np.float64).reshape(-1))
    metrics = {}
    for label, parts in answers.items():
        before = f"{label}/" if len(answers) > 1 else ""
        probabilities = np.concatenate(parts)
        metrics[f"{before}auc"] = auc(probabilities, rows.labels[label])
        metrics[f"{before}logloss"] = logloss(probabilities, rows.labels[label])
    return metrics


def select_primary_metric(metrics: Mapping[str, float]) -> tuple[str, float]:
    """Return the metric by which the best epoch is chosen, more is better: NDCG@10, or the mean AUC over labels.

    >>> select_primary_metric({"a/auc": 0.6, "a/logloss": 0.5, "b/auc": 0.8, "b/logloss": 0.4})
    ('mean auc', 0.7)
    """
    ranking = f"ndcg@{TOP}"
    if ranking in metrics:
        return ranking, metrics[ranking]
    areas = [value for name, value in metrics.items() if name.endswith("auc")]
    return "auc" if len(areas) == 1 else "mean auc", float(np.mean(areas).round(12))


def _evaluate_ranking(predict: LabelPredictor, rows: Rows) -> dict[str, float]:
    found = predict_ranks(predict, rows)
    return {f"hr@{TOP}": hit_rate(found), f"ndcg@{TOP}": ndcg(found)}


def predict_ranks(predict: LabelPredictor, rows: Rows) -> torch.Tensor:
    """Return the position of each row's target in the full ranking, from 0, items seen before left out, [N]."""
    assert rows.excluded_items is not None
    found = []
    for start in range(0, len(rows), RANKING_BATCH_SIZE):
        part = rows.take(np.arange(start, min(start + RANKING_BATCH_SIZE, len(rows))))
        assert part.excluded_items is not None
        scores = torch.from_numpy(np.asarray(predict(part.inputs)[NEXT_ITEM]))
        seen_row = torch.from_numpy(np.repeat(np.arange(len(part)), part.excluded_items.lengths))
        target = torch.from_numpy(part.labels[NEXT_ITEM])
        found.append(ranks(scores, target, seen_row, torch.from_numpy(part.excluded_items.values)))
    return torch.cat(found)
