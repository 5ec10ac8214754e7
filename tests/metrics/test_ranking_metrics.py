import numpy as np
import pytest
import torch
from recprune_export.training.metrics import auc, hit_rate, logloss, ndcg, ranks
from torchmetrics.functional.retrieval import retrieval_hit_rate, retrieval_normalized_dcg


def ranking(
    seed: int, users: int = 40, items: int = 60
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(users, items, generator=generator)
    target = torch.randint(1, items, (users,), generator=generator)
    seen_row = torch.arange(users).repeat_interleave(3)
    seen_item = torch.randint(1, items, (users * 3,), generator=generator)
    return scores, target, seen_row, seen_item


@pytest.mark.parametrize("seed", range(3))
def test_the_ranking_metrics_are_those_of_torchmetrics(seed: int) -> None:
    scores, target, seen_row, seen_item = ranking(seed)
    found = ranks(scores, target, seen_row, seen_item)
    masked = scores.clone()
    masked[seen_row, seen_item] = -torch.inf
    masked[:, 0] = -torch.inf
    rows = torch.arange(len(target))
    masked[rows, target] = scores[rows, target]
    relevant = torch.nn.functional.one_hot(target, scores.shape[1])
    hits = [retrieval_hit_rate(p, t, top_k=10) for p, t in zip(masked, relevant, strict=True)]
    gains = [retrieval_normalized_dcg(p, t, top_k=10) for p, t in zip(masked, relevant, strict=True)]
    assert hit_rate(found) == pytest.approx(float(torch.stack(hits).mean()))
    assert ndcg(found) == pytest.approx(float(torch.stack(gains).mean()))


def test_constant_scores_are_no_success() -> None:
    _, target, seen_row, seen_item = ranking(0)
    assert hit_rate(ranks(torch.zeros(40, 60), target, seen_row, seen_item)) == 0.0


def test_an_unknown_target_is_a_miss_whatever_the_scores() -> None:
    scores = torch.zeros(1, 20)
    scores[0, 0] = 100.0
    nothing = torch.zeros(0, dtype=torch.int64)
    assert int(ranks(scores, torch.tensor([0]), nothing, nothing)) >= 20


def test_auc_counts_ordered_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.random(50).round(1), rng.integers(2, size=50).astype(np.float32)
    above = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    assert auc(scores, labels) == pytest.approx(float(((above > 0) + 0.5 * (above == 0)).mean()), abs=1e-6)


def test_logloss_of_certainty_is_finite() -> None:
    assert logloss(np.array([1.0, 0.0]), np.array([0.0, 0.0], dtype=np.float32)) < 20
    assert logloss(np.array([0.5, 0.5]), np.array([0.0, 1.0], dtype=np.float32)) == pytest.approx(np.log(2))
