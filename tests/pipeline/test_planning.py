"""What is decided follows what was asked, part by part."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recprune_export.errors import PruningError
from recprune_export.pipeline import make_sampled_task, plan_pruning
from recprune_export.pipeline.structured_fraction import StructuredFractionTrial
from recprune_export.program.capture import capture
from recprune_export.pruning import Budget
from recprune_export.settings import Settings
from tests.properties import no_zeros
from tests.pruning.models import scorer


class Tables(nn.Module):
    """A product of two tables, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(40, 8), nn.Embedding(30, 8)

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return (self.user(user) * self.item(item)).sum(1)


class Shown(Tables):
    """Two tables whose sum is an output as well, so their dimensions stay, and layers behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, user: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        rows = self.user(user) + self.item(item)
        return self.layer(rows).squeeze(1), rows


IDS = (torch.arange(4), torch.arange(4))
MLP = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Budget]:
    """The budgets of all share trials."""
    budgets: list[Budget] = []
    honest = StructuredFractionTrial.loss

    def loss(trial: StructuredFractionTrial, budget: Budget) -> float:
        budgets.append(budget)
        return honest(trial, budget)

    monkeypatch.setattr(StructuredFractionTrial, "loss", loss)
    return budgets


@pytest.mark.parametrize(
    ("module", "example", "part"),
    [(Tables(), IDS, "tables"), (Shown(), IDS, "rest"), (MLP, (torch.ones(3, 8),), "rest")],
    ids=["tables alone", "tables that stay", "no tables"],
)
def test_only_a_part_of_which_channels_can_go_is_tried(
    module: nn.Module, example: Any, part: str, tried: list[Budget]
) -> None:
    program, settings = capture(no_zeros(module), example), Settings(sparsity=0.8, width_multiple=1)
    plan_pruning(program, settings.pruning, make_sampled_task(program, settings.finetuning))
    assert tried
    assert all(getattr(budget, part) == 0.8 for budget in tried)


@pytest.mark.parametrize("share", [None, 1.0])
def test_tables_of_which_nothing_is_to_go_keep_their_dimensions(share: float | None) -> None:
    program = scorer()
    settings = Settings(embedding_sparsity=0.0, hidden_sparsity=0.95, structured_fraction=share, width_multiple=1)
    groups = plan_pruning(program, settings.pruning, make_sampled_task(program, settings.finetuning)).plan.groups
    assert all(len(part.keep) == part.width for part in groups if part.kind == "embedding")
    assert all(len(part.keep) < part.width / 2 for part in groups if part.kind == "hidden")


def test_a_linear_model_is_refused_as_what_it_is() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights, self.bias = nn.Embedding(400, 1), nn.Parameter(torch.zeros(1))

        def forward(self, ids: Tensor) -> Tensor:
            return self.weights(ids).sum(1) + self.bias  # type: ignore[no-any-return]

    program = capture(no_zeros(Wide()), (torch.arange(8).reshape(4, 2),))
    settings = Settings(sparsity=0.7)
    with pytest.raises(PruningError, match="it is linear, with one number per id"):
        plan_pruning(program, settings.pruning, make_sampled_task(program, settings.finetuning))
