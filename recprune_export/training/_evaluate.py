"""`evaluate`: the metrics of a model that answers requests, in PyTorch or ONNX Runtime."""

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


def evaluate(predict: LabelPredictor, rows: Rows) -> dict[str, float]:
    """Return `auc` and `logloss`, prefixed by the label if there are several; or `hr@10` and `ndcg@10` for a ranking."""
    if NEXT_ITEM in rows.labels:
        return _evaluate_ranking(predict, rows)
    outputs: dict[str, list[np.ndarray]] = {label: [] for label in rows.labels}
    for batch in rows.batches(BATCH_SIZE):
        answer = predict(batch.inputs)
        for label, chunks in outputs.items():
            chunks.append(np.asarray(answer[label], dtype=np.float64).reshape(-1))
    metrics = {}
    for label, chunks in outputs.items():
        prefix = f"{label}/" if len(outputs) > 1 else ""
        probabilities = np.concatenate(chunks)
        metrics[f"{prefix}auc"] = auc(probabilities, rows.labels[label])
        metrics[f"{prefix}logloss"] = logloss(probabilities, rows.labels[label])
    return metrics


def select_primary_metric(metrics: Mapping[str, float]) -> tuple[str, float]:
    """Return name and value of the metric that selects the best epoch: NDCG@10, or the mean AUC over labels.

    >>> select_primary_metric({"a/auc": 0.6, "a/logloss": 0.5, "b/auc": 0.8, "b/logloss": 0.4})
    ('mean auc', 0.7)
    """
    ranking = f"ndcg@{TOP}"
    if ranking in metrics:
        return ranking, metrics[ranking]
    areas = [value for name, value in metrics.items() if name.endswith("auc")]
    return "auc" if len(areas) == 1 else "mean auc", float(np.mean(areas).round(12))


def _evaluate_ranking(predict: LabelPredictor, rows: Rows) -> dict[str, float]:
    positions = predict_ranks(predict, rows)
    return {f"hr@{TOP}": hit_rate(positions), f"ndcg@{TOP}": ndcg(positions)}


def predict_ranks(predict: LabelPredictor, rows: Rows) -> torch.Tensor:
    """Return the position, from 0, of the target of each row in the ranking of all items but the excluded ones, [N]."""
    assert rows.excluded_items is not None
    batch_size = 512  # a row of scores is as long as the item table
    positions = []
    for start in range(0, len(rows), batch_size):
        batch = rows.take(np.arange(start, min(start + batch_size, len(rows))))
        assert batch.excluded_items is not None
        scores = torch.from_numpy(np.asarray(predict(batch.inputs)[NEXT_ITEM]))
        excluded_row = torch.from_numpy(np.repeat(np.arange(len(batch)), batch.excluded_items.lengths))
        target = torch.from_numpy(batch.labels[NEXT_ITEM])
        positions.append(ranks(scores, target, excluded_row, torch.from_numpy(batch.excluded_items.values)))
    return torch.cat(positions)
