"""A plan on the rows that it was made on is the best there is; on rows where other channels matter it is not."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from recprune_export.data import Batch
from recprune_export.errors import PruningError
from recprune_export.finetuning import make_objective
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.pruning import OUTPUT_ERROR, Budget, GroupPlan, Plan, ScoreInputs, make_plan, rank_channels
from recprune_export.refresh import GroupRegret
from recprune_export.refresh.plan_regret import compute_mean_relative_regret, compute_regrets, sum_regret

BUDGET = Budget(0.6, 0.6, width_multiple=1)


class Halves(nn.Module):
    """Ids below 50 have embeddings in the first 8 dimensions, the others in the last 8; hidden units read one or the other.

    Those that read the other half are off: the answer is not sensitive to it either.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden, self.out = nn.Embedding(100, 16), nn.Linear(16, 24), nn.Linear(24, 1)
        with torch.no_grad():
            self.table.weight[:50, 8:] = 0.0
            self.table.weight[50:, :8] = 0.0
            self.hidden.weight[:12, 8:] = 0.0
            self.hidden.weight[12:, :8] = 0.0
            self.hidden.bias.fill_(-0.05)

    def forward(self, ids: Tensor) -> Tensor:
        """[B] -> [B]."""
        return self.out(self.hidden(self.table(ids)).relu()).squeeze(1)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    return capture(Halves().eval(), (torch.arange(4),))


def inputs_on(program: Program, low: int, high: int, seed: int = 0) -> ScoreInputs:
    generator = torch.Generator().manual_seed(seed)
    name = program.signature.inputs[0].name
    batches: Sequence[Batch] = [({name: torch.randint(low, high, (256,), generator=generator)}, {}) for _ in range(4)]
    objective = make_objective(program, ())

    def loss(response: object, labels: object) -> Tensor:
        return torch.stack([v.square().mean() for v in response.values()]).sum()  # type: ignore[attr-defined]

    return ScoreInputs(program, batches, loss, objective.distillation, objective.probe)


def plan_on(inputs: ScoreInputs, score: str) -> Plan:
    rankings = rank_channels(score, inputs)
    return make_plan(inputs.program, rankings, BUDGET, score)


@pytest.mark.parametrize("score", [OUTPUT_ERROR, "variance", "taylor", "magnitude-l2"])
def test_on_its_own_rows_a_plan_loses_the_least(program: Program, score: str) -> None:
    inputs = inputs_on(program, 0, 50)
    found = compute_regrets(plan_on(inputs, score), inputs)
    assert found
    for s in found:
        assert s.overlap in (None, s.pruned_width)
        assert s.loss == pytest.approx(s.optimal_loss, rel=1e-3, abs=1e-4 * s.total)
        assert 0.0 <= s.loss <= s.total
    assert compute_mean_relative_regret(found) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("score", [OUTPUT_ERROR, "variance", "taylor"])
def test_where_other_channels_matter_it_does_not(program: Program, score: str) -> None:
    plan = plan_on(inputs_on(program, 0, 50), score)
    again = compute_regrets(plan, inputs_on(program, 0, 50, seed=1))
    moved = compute_regrets(plan, inputs_on(program, 50, 100))
    assert compute_mean_relative_regret(again) < 0.02
    assert compute_mean_relative_regret(moved) > 0.3
    assert sum_regret(moved) > 20 * sum_regret(again)


def test_the_rotated_group_is_among_them(program: Program) -> None:
    inputs = inputs_on(program, 0, 50)
    plan = plan_on(inputs, OUTPUT_ERROR)
    rotated = {g.group for g in plan.groups if g.transform is not None}
    found = {s.group: s for s in compute_regrets(plan, inputs_on(program, 50, 100))}
    assert rotated
    for name in rotated:
        assert found[name].overlap is None
        s = found[name]
        assert s.optimal_loss < 0.2 * s.total < 0.8 * s.total < s.loss


def test_a_score_that_looks_at_no_rows_does_not_change(program: Program) -> None:
    plan = plan_on(inputs_on(program, 0, 50), "magnitude-l1")
    assert compute_mean_relative_regret(compute_regrets(plan, inputs_on(program, 50, 100))) == pytest.approx(
        0.0, abs=1e-9
    )


def test_groups_that_stay_whole_are_left_out_and_other_programs_refused(program: Program) -> None:
    inputs = inputs_on(program, 0, 50)
    whole = tuple(GroupPlan(g.name, g.kind, g.width, tuple(range(g.width))) for g in inputs.program.analysis.groups)
    assert compute_regrets(Plan(OUTPUT_ERROR, whole), inputs) == ()
    assert sum_regret(()) == compute_mean_relative_regret(()) == 0.0
    with pytest.raises(PruningError, match="no such group"):
        compute_regrets(Plan(OUTPUT_ERROR, (GroupPlan("another", "hidden", 4, (0,)),)), inputs)


def test_losses_add_up_and_shares_count_by_group() -> None:
    large = GroupRegret("a", "hidden", 4, 2, 2, loss=10.0, optimal_loss=11.0, total=90.0)
    small = GroupRegret("b", "hidden", 4, 2, 0, loss=6.0, optimal_loss=1.0, total=10.0)
    assert sum_regret([large, small]) == 5.0
    assert compute_mean_relative_regret([large, small]) == pytest.approx(0.25)
