"""What is said of a plan whose channels are ranked anew."""

import pytest

from recprune_export.pipeline import make_sampled_task, plan_pruning, rotate_channels
from recprune_export.pruning import Plan, apply_plan
from recprune_export.refresh.plan_check import judge_plan
from recprune_export.settings import Settings
from tests.pruning.models import scorer

SETTINGS = Settings(sparsity=0.6, width_multiple=1, pruning_stages=2)


@pytest.mark.parametrize("steps", [1, 2])
def test_it_is_said_where_later_stages_are_not_judged(steps: int) -> None:
    program = scorer()
    task = make_sampled_task(program, SETTINGS.finetuning)
    first = plan_pruning(program, SETTINGS.pruning.at_stage(1), task).plan
    original = rotate_channels(program, first)
    second = plan_pruning(apply_plan(original, first), SETTINGS.pruning.at_stage(2), task).plan
    plan = Plan.from_stages([first, second][:steps])
    finding, found = judge_plan(program, plan, task)
    assert finding.holds
    assert {standing.group for standing in found} <= {part.group for part in first.groups}
    assert ("of 2 stages this is the first alone" in finding.reason) is (steps == 2)
    assert ("cannot be judged" in finding.reason) is (steps == 2)
