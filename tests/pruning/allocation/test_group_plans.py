"""Plans of groups from widths: the same rankings give the same plan, others keep the widths."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.errors import PruningError
from recprune_export.pipeline import make_sampled_task, make_score_inputs, plan_pruning
from recprune_export.pruning import OUTPUT_ERROR, Plan, rank_channels
from recprune_export.pruning.allocation.group_plans import make_group_plan, renew_plan
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.importance.rounding_loss import turn_matrix
from recprune_export.pruning.rotation.transform import Transform
from recprune_export.settings import Settings
from tests.pruning.models import scorer

PROGRAM = scorer()
GROUP = PROGRAM.analysis.groups[0]


def ranking(seed: int, *, rotated: bool = False) -> Ranking:
    generator = torch.Generator().manual_seed(seed)
    order = tuple(torch.randperm(GROUP.width, generator=generator).tolist())
    transform = Transform(torch.randn(GROUP.width, GROUP.width, generator=generator).double()) if rotated else None
    return Ranking(order, (0.0,) * (GROUP.width + 1), transform)


@given(st.integers(0, 9), st.integers(1, GROUP.width), st.booleans(), st.booleans())
@settings(max_examples=40)
def test_the_best_channels_stay_and_a_whole_group_is_not_rotated(
    seed: int, width: int, rotated: bool, turned: bool
) -> None:
    of = ranking(seed, rotated=rotated)
    plan = make_group_plan(GROUP, of, width, turned=turned)
    assert set(plan.keep) == set(of.order[:width])
    assert plan.turned == (turned and rotated)
    assert (plan.transform is None) == (not rotated or (width == GROUP.width and not turned))
    if plan.turned:
        assert plan.transform is not None
        assert of.transform is not None
        expected = of.transform.matrix[:, :width] @ turn_matrix(width)
        torch.testing.assert_close(plan.transform.matrix[:, :width], expected)
        assert torch.equal(plan.transform.matrix[:, width:], of.transform.matrix[:, width:])


@pytest.mark.parametrize(
    "options", [{"sparsity": 0.6}, {"max_bytes": "60%"}, {"sparsity": 0.5, "score": "magnitude-l2"}]
)
def test_the_same_rankings_give_the_same_plan(options: dict[str, object]) -> None:
    chosen = Settings(**options)  # type: ignore[arg-type]
    task = make_sampled_task(PROGRAM, chosen.finetuning)
    planned = plan_pruning(PROGRAM, chosen.pruning, task)
    rankings = rank_channels(chosen.pruning.score, make_score_inputs(planned.program, task))
    assert renew_plan(planned.plan, planned.program, rankings) == planned.plan
    assert Plan.from_dict(planned.plan.to_dict()) == planned.plan


def test_other_rankings_keep_the_widths_and_other_programs_are_refused() -> None:
    chosen = Settings(0.6)
    task = make_sampled_task(PROGRAM, chosen.finetuning)
    planned = plan_pruning(PROGRAM, chosen.pruning, task)
    other = {
        g.name: Ranking(tuple(reversed(range(g.width))), (0.0,) * (g.width + 1))
        for g in planned.program.analysis.groups
    }
    renewed = renew_plan(planned.plan, planned.program, other)
    assert [len(g.keep) for g in renewed.groups] == [len(g.keep) for g in planned.plan.groups]
    assert renewed != planned.plan
    assert renewed.score == OUTPUT_ERROR
    if planned.plan.projection_plan:
        with pytest.raises(PruningError, match="make a plan for this model"):
            renew_plan(planned.plan, PROGRAM, other)
