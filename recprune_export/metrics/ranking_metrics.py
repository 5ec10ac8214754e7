"""Metrics of a ranking with one relevant item, over the full ranking: HR@k, Recall@k, NDCG@k and MRR."""

import numpy as np


def rank_targets(
    scores: np.ndarray, target: np.ndarray, excluded_row: np.ndarray, excluded_item: np.ndarray
) -> np.ndarray:
    """Return the position, from 0, of each target among all items except the excluded ones, [B].

    `scores` is [B, I] and column 0 is the padding; `excluded_row`, `excluded_item` are the row and the id of each excluded item.
    Ties count against the target, so that constant scores rank last. A target of 0 (unknown) has rank I.
    """
    rows = np.arange(len(target))
    ahead = scores >= scores[rows, target][:, None]
    ahead[excluded_row, excluded_item] = False
    ahead[:, 0] = False
    ahead[rows, target] = False
    return np.where(target > 0, ahead.sum(1), scores.shape[1])


def hits(ranks: np.ndarray, k: int) -> np.ndarray:
    """Return 1 for each target among the first `k`, else 0: HR@k, and Recall@k with one relevant item, [N].

    >>> hits(np.array([0, 9, 10, 500]), 10).mean()
    np.float64(0.5)
    """
    return (ranks < k).astype(np.float64)


def discounted_gains(ranks: np.ndarray, k: int) -> np.ndarray:
    """Return NDCG@k of each row with one relevant item: 1 / log2(rank + 2) if it is among the first `k`, else 0, [N].

    >>> discounted_gains(np.array([0, 2, 10, 11]), 10).mean()
    np.float64(0.375)
    """
    return np.where(ranks < k, 1.0 / np.log2(ranks + 2.0), 0.0)


def reciprocal_ranks(ranks: np.ndarray) -> np.ndarray:
    """Return 1 / (rank + 1) of each row, whose mean is MRR, [N].

    >>> reciprocal_ranks(np.array([0, 3])).tolist()
    [1.0, 0.25]
    """
    return 1.0 / (ranks + 1.0)
