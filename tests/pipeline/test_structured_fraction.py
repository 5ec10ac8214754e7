"""How much removal takes, by what the answers lose."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from recprune_export.pipeline import make_sampled_task, plan_pruning, structured_fraction
from recprune_export.pipeline.planning import make_score_inputs, read_calibration_batches
from recprune_export.pipeline.structured_fraction import (
    REST_FRACTIONS,
    TABLE_FRACTIONS,
    StructuredFractionTrial,
    choose_fraction,
    choose_structured_fractions,
    restrict_to_prunable,
)
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.pruning import (
    OUTPUT_ERROR,
    REST_STRUCTURED_FRACTION,
    TABLE_STRUCTURED_FRACTION,
    Budget,
    ParameterCounter,
    rank_channels,
)
from recprune_export.settings import Settings


def test_each_part_has_the_share_that_loses_least_with_the_other_whole() -> None:
    def loss(budget: Budget) -> float:
        assert not (budget.tables and budget.rest)
        return (
            budget.table_structured_fraction
            if budget.tables
            else 1.0 + abs(budget.rest_structured_fraction - REST_FRACTIONS[-1])
        )

    found = choose_structured_fractions(loss, Budget(tables=0.9, rest=0.9), negligible_loss=1e-3)
    assert found == Budget(
        tables=0.9,
        rest=0.9,
        table_structured_fraction=TABLE_FRACTIONS[-1],
        rest_structured_fraction=REST_STRUCTURED_FRACTION,
    )


def test_a_part_that_stays_whole_is_not_tried() -> None:
    tried: list[Budget] = []

    def loss(budget: Budget) -> float:
        tried.append(budget)
        return 1.0

    choose_structured_fractions(loss, Budget(tables=0.0, rest=0.9), negligible_loss=1e-3)
    assert tried
    assert all(budget.rest == 0.9 for budget in tried)


def test_removal_is_tried_once_where_nothing_is_lost() -> None:
    tried: list[Budget] = []

    def loss(budget: Budget) -> float:
        tried.append(budget)
        return 1e-6

    budget = Budget(tables=0.9, rest=0.9)
    assert choose_structured_fractions(loss, budget, negligible_loss=1e-3) == budget
    assert len(tried) == 2


def test_the_search_ends_where_the_loss_rises_again() -> None:
    losses = {0.8: 3.0, 0.65: 3.2, 0.5: 2.0, 0.35: 2.3, 0.2: 0.1}
    tried: list[float] = []

    def loss(fraction: float) -> float:
        tried.append(fraction)
        return losses[fraction]

    assert choose_fraction(tuple(losses), loss, max_loss_ratio=0.9, negligible_loss=0.0) == 0.5
    assert tried == [0.8, 0.65, 0.5, 0.35]


class Scorer(nn.Module):
    """Scores all items: a table with `rank` of 32 dimensions; if it has all, each row has a few large weights."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.items = nn.Embedding(400, 32)
        weights = torch.randn(400, rank, generator=generator)
        if rank == 32:  # every row has its own few dimensions
            weights *= torch.rand(400, 32, generator=generator) < 0.1
        with torch.no_grad():
            self.items.weight.copy_(weights @ torch.eye(32)[:rank])
        self.layer = nn.Linear(32, 32)

    def forward(self, item: Tensor) -> Tensor:
        hidden = self.items(item) + torch.relu(self.layer(self.items(item)))
        return hidden @ self.items.weight.T


def captured(rank: int) -> Program:
    torch.manual_seed(0)
    return capture(Scorer(rank).eval(), (torch.arange(7),))


@pytest.mark.parametrize(("rank", "removes"), [(3, True), (32, False)])
def test_a_table_of_few_dimensions_is_cut_and_one_of_many_has_zeros(rank: int, removes: bool) -> None:
    program = captured(rank)
    settings = Settings(embedding_sparsity=0.85, hidden_sparsity=0.0)
    task = make_sampled_task(program, settings.finetuning)
    dense = ParameterCounter(program).sizes()

    def tables_after(settings: Settings) -> int:
        plan = plan_pruning(program, settings.pruning, task, dense=dense).plan
        return sum(len(part.keep) for part in plan.groups if part.kind == "embedding")

    chosen, cut = (
        tables_after(settings),
        tables_after(settings.with_options(structured_fraction=TABLE_STRUCTURED_FRACTION)),
    )
    assert (chosen == cut) is removes
    assert chosen >= cut


def test_zeros_are_tried_element_by_element(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that nearly every row of a layer keeps other inputs."""
    torch.manual_seed(0)
    program = capture(nn.Sequential(nn.Linear(64, 192), nn.ReLU(), nn.Linear(192, 1)).eval(), (torch.randn(3, 64),))
    masks: list[Tensor] = []

    def seen(student: Program, made: Mapping[str, Tensor]) -> None:
        masks.extend(mask for mask in made.values() if mask.ndim > 1 and len(mask) > 1)

    monkeypatch.setattr(structured_fraction, "apply_masks", seen)
    monkeypatch.setattr(structured_fraction, "REST_FRACTIONS", (0.4, 0.2))
    settings = Settings(sparsity=0.8)
    plan_pruning(program, settings.pruning, make_sampled_task(program, settings.finetuning))
    assert masks
    assert all(len(mask.unique(dim=0)) > len(mask) / 2 for mask in masks)


def make_trial(program: Program, settings: Settings) -> tuple[StructuredFractionTrial, Budget]:
    task, dense = make_sampled_task(program, settings.finetuning), ParameterCounter(program).sizes()
    rankings = rank_channels(OUTPUT_ERROR, make_score_inputs(program, task))
    batches = read_calibration_batches(task, 0)[:4]
    trial = StructuredFractionTrial(program, rankings, dense, task.objective, batches, refit=True, seed=0)
    return trial, restrict_to_prunable(Budget(settings.pruning.table_sparsity, settings.pruning.rest_sparsity), program)


def test_a_trial_changes_no_weight_of_the_dense_program_and_has_one_loss() -> None:
    program = captured(32)
    before = {name: p.detach().clone() for name, p in program.parameters().items()}
    trial, budget = make_trial(program, Settings(sparsity=0.8))
    assert budget.tables
    assert budget.rest
    for alone in (replace(budget, rest=0.0), replace(budget, tables=0.0)):
        fresh, _ = make_trial(program, Settings(sparsity=0.8))
        assert trial.loss(alone) == fresh.loss(alone)
        assert trial.loss(alone) > 0.0
    assert all(torch.equal(before[name], p) for name, p in program.parameters().items())


def test_the_dense_program_answers_each_batch_once_for_all_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    program = captured(32)
    trial, budget = make_trial(program, Settings(sparsity=0.8))
    answered: list[Program] = []
    original = Program.__call__

    def answer(self: Program, request: Mapping[str, Tensor]) -> dict[str, Tensor]:
        answered.append(self)
        return original(self, request)

    monkeypatch.setattr(Program, "__call__", answer)
    trial.loss(replace(budget, rest=0.0))
    count = len(answered)
    trial.loss(replace(budget, rest=0.0))
    assert len(answered) == count  # the same plan has the same loss
    assert not any(asked is program for asked in answered)
    monkeypatch.setattr(structured_fraction, "MAX_ANSWER_BYTES", 0)
    costly, _ = make_trial(program, Settings(sparsity=0.8))
    assert costly.loss(replace(budget, rest=0.0)) == trial.loss(replace(budget, rest=0.0))
    assert any(asked is program for asked in answered)
