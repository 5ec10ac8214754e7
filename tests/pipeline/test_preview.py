"""A dry run states what the job removes, and writes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from recprune_export.api import preview
from recprune_export.program import Program
from recprune_export.pruning import Plan
from tests.jobs import QUICK, QUICK_OPTIONS, assert_refused, invoke


def read_plan(bundle: Path) -> dict[str, Any]:
    plan: dict[str, Any] = json.loads((bundle / "manifest.json").read_text())["plan"]
    return plan


def test_it_has_the_widths_and_parameters_of_the_job(checkpoint: Path, clicks_file: Path, bundle: Path) -> None:
    planned = preview(checkpoint, target=bundle, data=clicks_file, settings=QUICK)
    assert planned.pruned is not None
    made = read_plan(bundle)
    assert [group.to_dict() for group in planned.widths] == made["groups"]
    assert [axis.to_dict() for axis in planned.frozen] == made["frozen"]
    parameters = Program.load(bundle / "model.pt2").parameters().values()
    assert planned.pruned.tables + planned.pruned.rest == sum(p.numel() for p in parameters)
    assert planned.pruned_bytes == sum(p.nbytes for p in parameters)


def test_it_has_the_widths_of_a_plan_that_is_given(checkpoint: Path, bundle: Path, tmp_path: Path) -> None:
    planned = preview(checkpoint, target=tmp_path / "ctr", settings=QUICK, plan=bundle / "plan.json")
    kept = {group.group: len(group.keep) for group in Plan.load(bundle / "plan.json").groups}
    assert {group.group: group.kept for group in planned.widths} == kept
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "check"),
    [
        ([], lambda out: "user" in out and "top.0" in out and "nothing was written" in out),
        (["--json"], lambda out: json.loads(out)["widths"][0]["label"]),
        (["--quiet"], lambda out: not out),
    ],
    ids=["table", "json", "quiet"],
)
def test_the_command_writes_nothing(
    options: list[str], check: Callable[[str], bool], checkpoint: Path, clicks_file: Path, tmp_path: Path
) -> None:
    arguments = ["--data", clicks_file, "--score", "magnitude-l2", "-o", tmp_path / "artifacts" / "ctr"]
    done = invoke(checkpoint, "--dry-run", *arguments, *options, *QUICK_OPTIONS)
    assert done.exit_code == 0, done.stderr
    assert check(done.stdout)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-drop", "0.01"], "--max-drop tries several plans"),
        (["--target-speedup", "2"], "--target-speedup tries several plans"),
    ],
)
def test_what_a_search_decides_is_open(options: list[str], words: str, checkpoint: Path, clicks_file: Path) -> None:
    done = invoke(checkpoint, "--dry-run", "--json", "--data", clicks_file, *options, *QUICK_OPTIONS)
    assert done.exit_code == 0, done.stderr
    planned = json.loads(done.stdout)
    assert {group["kept"] for group in planned["widths"]} == {None}
    assert planned["pruned_bytes"] is None
    assert words in planned["unknown"][0]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--plan-only"], 2, "leave out one of them"),
        (["--label", "bought"], 2, "this checkpoint of `train` predicts clicked"),
        (["--shared-inputs", "nobody"], 2, "nobody"),
    ],
)
def test_it_refuses_what_the_job_refuses(
    options: list[str], code: int, words: str, checkpoint: Path, clicks_file: Path, tmp_path: Path
) -> None:
    done = invoke(checkpoint, "--dry-run", "--data", clicks_file, "-o", tmp_path / "ctr", *options, *QUICK_OPTIONS)
    assert_refused(done, code, words)
    assert list(tmp_path.iterdir()) == []


def test_it_refuses_a_folder_that_is_no_bundle(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    done = invoke(checkpoint, "--dry-run", "--data", clicks_file, "-o", tmp_path, *QUICK_OPTIONS)
    assert_refused(done, 2, str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
