import json
from pathlib import Path

import pytest

from recprune_export.errors import InputFileError, PruningError
from recprune_export.pruning import GroupPlan, Plan
from tests.properties import random_plan
from tests.pruning.models import scorer


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = random_plan(scorer().analysis, seed=0)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


def test_a_plan_of_stages_survives_its_file(tmp_path: Path) -> None:
    parts = [random_plan(scorer().analysis, seed) for seed in range(3)]
    plan = Plan.from_stages(parts)
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert list(plan.stages) == parts


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (GroupPlan("no.such:0", "hidden", 4, (0,)), "no such group"),
        (GroupPlan("user.weight:1", "embedding", 8, (0,)), "a width of 16"),
        (GroupPlan("user.weight:1", "embedding", 16, ()), "between 1 and 16"),
        (GroupPlan("user.weight:1", "embedding", 16, (16,)), "between 1 and 16"),
    ],
)
def test_a_plan_of_another_model_is_refused(part: GroupPlan, said: str) -> None:
    with pytest.raises(PruningError, match=said):
        Plan("mine", (part,)).removed(scorer().analysis)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"score": "x", "groups": [{}]}', '{"score": "x", "groups": 3}'])
def test_another_file_is_no_plan(tmp_path: Path, content: str) -> None:
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(InputFileError, match="is not a plan"):
        Plan.load(tmp_path / "plan.json")
    with pytest.raises(InputFileError, match="cannot be read"):
        Plan.load(tmp_path / "missing.json")


def test_a_plan_that_names_some_groups_keeps_the_others_whole() -> None:
    analysis = scorer().analysis
    plan = Plan.from_dict(
        json.loads('{"score": "", "groups": [{"group": "user.weight:1", "kind": "", "width": 16, "keep": [3]}]}')
    )
    assert len(plan.removed(analysis)) == 15
