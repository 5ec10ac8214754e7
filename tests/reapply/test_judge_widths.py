"""Widths hold for weights that need them, and fail for weights of which another group needs more."""

import pytest
import torch
from torch import Tensor, nn

from recprune_export.evidence import Verdict
from recprune_export.pipeline import make_sampled_task, make_score_inputs
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.pruning import OUTPUT_ERROR, Budget, Plan, ScoreInputs, make_plan, rank_channels
from recprune_export.reapply import judge_widths
from recprune_export.settings import Settings

BUDGET = Budget(0.0, 0.6, rest_structured_fraction=1.0, width_multiple=1, keep_tables=True)


class TwoTasks(nn.Module):
    """Two stacks of equal size, of which the one with the large weights needs its units."""

    def __init__(self, sizes: tuple[float, float], seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.table = nn.Embedding(200, 8)
        self.first, self.second = (nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 1)) for _ in range(2))
        with torch.no_grad():
            self.first[2].weight *= sizes[0]
            self.second[2].weight *= sizes[1]

    def forward(self, ids: Tensor) -> Tensor:
        """[B] -> [B]."""
        vectors = self.table(ids)
        return (self.first(vectors) + self.second(vectors)).squeeze(1)  # type: ignore[no-any-return]


def make_inputs(sizes: tuple[float, float], seed: int) -> ScoreInputs:
    program: Program = capture(TwoTasks(sizes, seed).eval(), (torch.arange(4),))
    return make_score_inputs(program, make_sampled_task(program, Settings(epochs=0).finetuning))


def plan_of(inputs: ScoreInputs) -> Plan:
    return make_plan(inputs.program, rank_channels(OUTPUT_ERROR, inputs), BUDGET, OUTPUT_ERROR)


@pytest.mark.parametrize("seed", [0, 1])
def test_widths_of_equal_weights_hold_and_those_of_others_fail(seed: int) -> None:
    plan = plan_of(make_inputs((9.0, 0.1), 0))
    same, other = make_inputs((9.0, 0.1), seed), make_inputs((0.1, 9.0), seed)
    held = judge_widths(plan, rank_channels(OUTPUT_ERROR, same), same, BUDGET)
    assert held.verdict is Verdict.HOLDS, held.reason
    failed = judge_widths(plan, rank_channels(OUTPUT_ERROR, other), other, BUDGET)
    assert failed.verdict is Verdict.FAILS, failed.reason
    assert "and not" in failed.reason


def test_of_the_same_weights_the_widths_are_those_of_the_plan() -> None:
    inputs = make_inputs((2.0, 1.0), 3)
    found = judge_widths(plan_of(inputs), rank_channels(OUTPUT_ERROR, inputs), inputs, BUDGET)
    assert found.reason == "The best widths of as many parameters are those of the plan."


def test_other_scores_are_not_judged() -> None:
    inputs = make_inputs((2.0, 1.0), 0)
    rankings = rank_channels("variance", inputs)
    plan = make_plan(inputs.program, rankings, BUDGET, "variance", "uniform")
    assert judge_widths(plan, rankings, inputs, BUDGET).verdict is Verdict.SKIPPED
