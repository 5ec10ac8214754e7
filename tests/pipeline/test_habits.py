"""The whole job on a model with habits that ours do not have."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from recprune_export.api import compress
from recprune_export.bundle import verify
from recprune_export.finetuning import task
from recprune_export.settings import Settings

ITEMS, DIM = 300, 16


class Habits(nn.Module):
    """Tables that are a parameter, a buffer and of bounded norm; a weight norm; softmax of nothing; masked items; ids beside scores."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.bias = nn.Parameter(torch.randn(ITEMS, DIM)), nn.Parameter(torch.randn(ITEMS))
        self.register_buffer("images", torch.randn(ITEMS, 24))
        self.register_buffer("later", torch.full((4, 4), float("-inf")).triu(1))
        self.users = nn.Embedding(200, DIM, max_norm=1.0)
        self.user, self.image = nn.utils.parametrizations.weight_norm(nn.Linear(DIM, DIM)), nn.Linear(24, DIM)

    def forward(self, user: Tensor, history: Tensor, mask: Tensor) -> dict[str, Tensor]:
        x = self.items[history] + torch.relu(self.image(self.images[history]))
        x = (x @ x.transpose(1, 2) + self.later).softmax(-1) @ x
        query = torch.tanh(self.user(self.users(user)))
        shares = (x @ query.unsqueeze(-1)).squeeze(-1).masked_fill(~mask, float("-inf")).softmax(1)
        wanted = query + (shares.unsqueeze(-1) * x).sum(1)
        scores = (wanted @ self.items.t() + self.bias).scatter(1, history, float("-inf"))
        best = scores.topk(5)
        return {"scores": scores, "items": best.indices, "scale": self.bias[:1].expand(len(user))}


@pytest.mark.parametrize(
    "settings",
    [
        Settings(0.7, epochs=1, latency_batch_sizes=(1,)),
        Settings(0.9, epochs=1, pruning_stages=2, quantize="int8", latency_batch_sizes=(1,)),
    ],
    ids=["plain", "two stages, int8"],
)
def test_it_becomes_a_bundle_that_can_be_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    monkeypatch.setattr(task, "SAMPLED_STEPS", 4)
    torch.manual_seed(0)
    module = Habits().eval()
    request = (torch.randint(200, (6,)), torch.randint(ITEMS, (6, 4)), torch.ones(6, 4, dtype=torch.bool))
    result = compress(module, request, tmp_path / "bundle", settings=settings, batch_size=64)
    assert result.reduction.tables >= settings.pruning.sparsity - 1e-9
    assert verify(tmp_path / "bundle").rows > 0
