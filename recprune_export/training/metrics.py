"""Metrics on held-out rows: AUC and logloss from torchmetrics, HR@k and NDCG@k over the full ranking."""

import numpy as np
import torch
from torch import Tensor

TOP = 10


def auc(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the area under the ROC curve; both arrays have shape [N]."""
    from torchmetrics.functional.classification import binary_auroc

    return float(binary_auroc(torch.from_numpy(probabilities), torch.from_numpy(labels).long(), thresholds=None))


def logloss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean binary cross entropy in nats; both arrays have shape [N]."""
    clamped = torch.from_numpy(probabilities).double().clamp(1e-12, 1 - 1e-12)
    return float(torch.nn.functional.binary_cross_entropy(clamped, torch.from_numpy(labels).double()))


def ranks(scores: Tensor, target: Tensor, excluded_row: Tensor, excluded_item: Tensor) -> Tensor:
    """Return the position, from 0, of each target among all items but the excluded ones, [B].

    `scores` is [B, I] and column 0 is the padding; `excluded_row`, `excluded_item` are the row and the id of each excluded item.
    Ties count against the target, so that constant scores rank last. A target of 0 (unknown) has rank I.
    """
    rows = torch.arange(len(target))
    target_scores = scores[rows, target].unsqueeze(1)
    ahead = scores >= target_scores
    ahead[excluded_row, excluded_item] = False
    ahead[:, 0] = False
    ahead[rows, target] = False
    return torch.where(target > 0, ahead.sum(1), scores.shape[1])


def hit_rate(ranks: Tensor, k: int = TOP) -> float:
    """Return the share of users whose target is among the first `k`.

    >>> hit_rate(torch.tensor([0, 9, 10, 500]))
    0.5
    """
    return float((ranks < k).double().mean())


def ndcg(ranks: Tensor, k: int = TOP) -> float:
    """Return NDCG@k with one relevant item: the mean of 1 / log2(rank + 2) if the target is among the first `k`, else of 0.

    >>> ndcg(torch.tensor([0, 2, 10, 11]))
    0.375
    """
    return float(torch.where(ranks < k, 1.0 / torch.log2(ranks.double() + 2.0), 0.0).mean())
