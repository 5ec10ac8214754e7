"""The CI examples are run as they stand, from a wheel that is built here, without a base first and then with one.

A runner is imitated: `pip` installs our wheel without its dependencies, which the interpreter of the tests has, and `gh` and `curl`
exchange files with a folder. Only the seconds of a measurement are fewer.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "ci"

ON_PUSH = "github.event_name == 'push'"
ON_PULL_REQUEST = "always() && github.event_name == 'pull_request'"
EXPRESSIONS = {"${{ github.token }}": "token", "${{ github.event.pull_request.number }}": "7"}
ACCEPTED = "${{ steps.accepted.outputs.regression == 'true' }}"
ON_FAILURE = re.compile(r"steps\.(\w+)\.outcome == 'failure'")

PIP = """#!/bin/sh
[ "$1" = install ] && [ "$2" = "recprune-export[pack]" ] || exit 9
exec "{bin}/python" -m pip install --quiet --ignore-installed --no-deps --no-index --find-links "{wheels}" recprune-export
"""
GH = """#!/bin/sh
[ -n "$GH_TOKEN" ] || exit 9
case "$1 $2" in
  "release download") [ -f "{store}/base.tar.zst" ] && cp "{store}/base.tar.zst" . ;;
  "release create") mkdir "{store}/release" ;;
  "release upload") cp "$4" "{store}/" ;;
  "pr comment") [ "$3" = 7 ] && [ "$4" = --body-file ] && cp "$5" "{store}/comment.md" ;;
  *) exit 9 ;;
esac
"""
CURL = """#!/bin/sh
while [ $# -gt 1 ]; do [ "$1" = --output ] && output="$2"; shift; done
case "$1" in */raw/new.tar.zst*) [ -f "{store}/new.tar.zst" ] && cp "{store}/new.tar.zst" "$output" || exit 22 ;; *) exit 9 ;; esac
"""


@dataclass(frozen=True)
class Runner:
    """A folder with the files of a repository, and a path on which the commands of a runner lie."""

    work: Path
    store: Path
    environment: dict[str, str]

    def run(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a script in the way that GitHub and GitLab do: it ends at the first command that fails."""
        script = script.replace("--time-limit 120", "--time-limit 4")
        return subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", script],
            cwd=self.work,
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy of the sources: a build leaves folders behind."""
    copy, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheels")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "recprune_export", copy / "recprune_export", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", str(target), str(copy)], check=True)
    return target


@pytest.fixture
def runner(tmp_path: Path, wheels: Path) -> Runner:
    work, store, tools = tmp_path / "work", tmp_path / "store", tmp_path / "tools"
    for folder in (work, store, tools):
        folder.mkdir()
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    for name, script in {"pip": PIP, "gh": GH, "curl": CURL}.items():
        (tools / name).write_text(script.format(bin=binaries, wheels=wheels, store=store))
        (tools / name).chmod(0o755)
    hidden = ("GITHUB_", "PYTHONPATH", "CI_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment["PATH"] = os.pathsep.join([str(tools), str(binaries), environment["PATH"]])
    made = Runner(work, store, environment)
    installed = made.run('pip install "recprune-export[pack]"')
    assert installed.returncode == 0, installed.stderr
    where = made.run("python -c 'import recprune_export; print(recprune_export.__file__)'").stdout
    assert Path(where.strip()).is_relative_to(tmp_path / "venv")
    committed = made.run("git init -q && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m Base")
    assert committed.returncode == 0, committed.stderr
    trained = made.run(
        "recprune-export generate --rows 3000 -o rows.parquet --quiet && "
        "recprune-export train --data rows.parquet --label clicked --recommender deepfm --epochs 1 -o model.pt --quiet"
    )
    assert trained.returncode == 0, trained.stderr
    return made


def run_github(runner: Runner, event: str, file: str = "github-workflow.yml") -> str:
    """Run every step of the only job of a workflow; return all output."""
    (job,) = yaml.safe_load((FOLDER / file).read_text())["jobs"].values()
    output, summary, results, failed = "", runner.work / "summary.md", runner.work / "outputs.txt", set()
    results.write_text("")
    for step in job["steps"]:
        condition = step.get("if")
        after_failure = ON_FAILURE.fullmatch(condition or "")
        assert condition in (None, ON_PUSH, ON_PULL_REQUEST) or after_failure or "run" not in step
        skipped = (
            (condition == ON_PUSH and event != "push")
            or (condition == ON_PULL_REQUEST and event != "pull_request")
            or (after_failure and after_failure[1] not in failed)
        )
        if "run" not in step or skipped:
            continue
        variables = {name: EXPRESSIONS[value] for name, value in step.get("env", {}).items()}
        variables |= {"GITHUB_EVENT_NAME": event, "GITHUB_OUTPUT": str(results)}
        ran = runner.run(
            step["run"], GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary), GITHUB_SHA="1" * 40, **variables
        )
        may_fail = step.get("continue-on-error")
        if may_fail == ACCEPTED:
            may_fail = "regression=true" in results.read_text()
        assert ran.returncode == 0 or may_fail, (step.get("name"), ran.stdout, ran.stderr)
        if ran.returncode and "id" in step:
            failed.add(step["id"])
        output += ran.stdout + ran.stderr
    return output


@pytest.mark.slow
def test_the_github_workflow_runs_without_a_base_and_with_one(runner: Runner) -> None:
    first = run_github(runner, "push")
    assert "this is the first run" in first
    assert (runner.store / "base.tar.zst").is_file()
    shutil.rmtree(runner.work / "artifacts")
    second = run_github(runner, "pull_request")
    assert "Verdict: " in second
    assert (runner.store / "comment.md").read_text() == (runner.work / "check.md").read_text()
    for name in ("check.xml", "check.md", "check.html", "history.jsonl", "benchmark.json", "summary.md"):
        assert (runner.work / name).stat().st_size > 0, name
    assert '"commit":"1111' in (runner.work / "history.jsonl").read_text()


@pytest.mark.slow
def test_the_nightly_workflow_compresses_first_and_then_applies_the_plan_again(runner: Runner) -> None:
    first = run_github(runner, "schedule", "nightly.yml")
    assert "base.tar.zst does not exist" in first
    assert "this is the first run" in first
    shutil.rmtree(runner.work / "artifacts")
    second = run_github(runner, "schedule", "nightly.yml")
    assert "base.tar.zst holds for the new weights" in second
    assert second.count("Verdict: ") == 2  # of the plan, and of the comparison


@pytest.mark.slow
def test_the_gitlab_jobs_run_without_a_base_and_with_one(runner: Runner) -> None:
    jobs = yaml.safe_load((FOLDER / "gitlab-ci.yml").read_text())
    variables = {
        "CI_API_V4_URL": "https://gitlab.invalid/api/v4",
        "CI_PROJECT_ID": "1",
        "CI_DEFAULT_BRANCH": "main",
        "CI_JOB_TOKEN": "t",
    }

    def run_job(name: str) -> subprocess.CompletedProcess[str]:
        script = "\n".join([*jobs["default"]["before_script"], *jobs[name]["script"]])
        ran = runner.run(script, **variables)
        assert ran.returncode in (0, *jobs[name].get("allow_failure", {}).get("exit_codes", [])), (
            ran.stdout,
            ran.stderr,
        )
        return ran

    run_job("compress")
    ran = runner.run(f"python {FOLDER / 'gate.py'} new.tar.zst artifacts/new")
    assert ran.returncode in (0, 5), ran.stderr
    assert (runner.work / "gate.xml").is_file()
    assert "Nothing to compare with yet" in run_job("check").stdout
    shutil.copy(runner.work / "new.tar.zst", runner.store)
    assert "Verdict: " in run_job("check").stdout
    assert (runner.work / jobs["check"]["artifacts"]["reports"]["junit"]).is_file()
    assert "regression of" in run_job("calibrate").stdout
