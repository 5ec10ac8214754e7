"""What is said of a plan whose channels are ranked anew."""

import numpy as np
import pytest
import torch

from recprune_export.evidence import Verdict, judge_at_most
from recprune_export.pipeline import make_sampled_task, plan_pruning, rotate_channels
from recprune_export.pruning import Plan, apply_plan
from recprune_export.refresh.plan_check import FOLDS, divide_rows, estimate_by_folds, judge_plan
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
    assert ("only the first of 2 stages is judged" in finding.reason) is (steps == 2)


@pytest.mark.parametrize("rows", [40, 400, 4000])
def test_the_interval_by_folds_errs_at_most_in_the_stated_share(rows: int) -> None:
    """A mean of skewed values at the limit, by the scatter of its folds."""
    rng, trials = np.random.default_rng(rows), 400
    values = rng.gamma(2.0, 0.5, (trials, FOLDS, rows // FOLDS))  # of mean 1
    verdicts = [judge_at_most(estimate_by_folds(float(v.mean()), v.mean(axis=1).tolist()), 1.0) for v in values]
    noise = 3 * (0.025 * 0.975 / trials) ** 0.5
    assert verdicts.count(Verdict.HOLDS) / trials <= 0.025 + noise
    assert verdicts.count(Verdict.FAILS) / trials <= 0.025 + noise


def test_rows_are_divided_and_too_few_give_no_folds() -> None:
    batches = [({"id": torch.arange(10)}, {"y": torch.arange(10)}), ({"id": torch.arange(10, 19)}, {})]
    folds = divide_rows(batches, 4)
    assert sorted(i for fold in folds for request, _ in fold for i in request["id"].tolist()) == list(range(19))
    assert all(torch.equal(request["id"], labels.get("y", request["id"])) for fold in folds for request, labels in fold)
    assert divide_rows([({"id": torch.arange(3)}, {})], 4) == []
    assert judge_at_most(estimate_by_folds(0.001, []), 0.002) is Verdict.UNDECIDED
