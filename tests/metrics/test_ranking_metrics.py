import numpy as np
import pytest
import torch
from torchmetrics.functional.retrieval import (
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_recall,
    retrieval_reciprocal_rank,
)

from recprune_export.data import LabelKind
from recprune_export.metrics import Observations, Targets, find_metric
from recprune_export.metrics.ranking_metrics import hits, rank_targets


def ranking(seed: int, users: int = 40, items: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(users, items)).astype(np.float32)
    target = rng.integers(1, items, users)
    return scores, target, np.repeat(np.arange(users), 3), rng.integers(1, items, users * 3)


@pytest.mark.parametrize("k", [1, 10, 25])
@pytest.mark.parametrize("seed", range(2))
def test_the_ranking_metrics_are_those_of_torchmetrics(seed: int, k: int) -> None:
    scores, target, seen_row, seen_item = ranking(seed)
    ranks = rank_targets(scores, target, seen_row, seen_item)
    masked = scores.copy()
    masked[seen_row, seen_item] = -np.inf
    masked[:, 0] = -np.inf
    rows = np.arange(len(target))
    masked[rows, target] = scores[rows, target]
    relevant = torch.nn.functional.one_hot(torch.from_numpy(target), scores.shape[1])
    observed = Observations(Targets("next", LabelKind.NEXT_ITEM, target, rows, len(rows)), ranks)
    for name, expected in (
        (f"hr@{k}", lambda p, t: retrieval_hit_rate(p, t, top_k=k)),
        (f"recall@{k}", lambda p, t: retrieval_recall(p, t, top_k=k)),
        (f"ndcg@{k}", lambda p, t: retrieval_normalized_dcg(p, t, top_k=k)),
        ("mrr", retrieval_reciprocal_rank),
    ):
        metric = find_metric(name)
        assert metric is not None
        positive = torch.from_numpy(np.exp(masked))  # torchmetrics takes scores below 0 for irrelevant items
        values = [float(expected(p, t)) for p, t in zip(positive, relevant, strict=True)]
        assert metric.compute(observed) == pytest.approx(np.mean(values), abs=1e-6)


def test_constant_scores_are_no_success() -> None:
    _, target, seen_row, seen_item = ranking(0)
    assert not hits(rank_targets(np.zeros((40, 60)), target, seen_row, seen_item), 10).any()


def test_an_unknown_target_is_a_miss_whatever_the_scores() -> None:
    scores = np.zeros((1, 20))
    scores[0, 0] = 100.0
    nothing = np.zeros(0, dtype=np.int64)
    assert int(rank_targets(scores, np.array([0]), nothing, nothing)[0]) >= 20
