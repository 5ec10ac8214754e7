"""One small recommender for the tests of plans, budgets and scores."""

import torch
from torch import Tensor, nn

from recprune_export.program import Program
from recprune_export.program.capture import capture
from tests.properties import no_zeros


class Scorer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(50, 16), nn.Embedding(30, 16)
        self.mlp = nn.Sequential(nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 1))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return self.mlp(torch.cat([self.user(user), self.item(item)], 1)).squeeze(1)  # type: ignore[no-any-return]


def scorer() -> Program:
    return capture(no_zeros(Scorer()), (torch.tensor([1, 2]), torch.tensor([3, 4])))
