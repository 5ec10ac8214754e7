"""The CI examples are YAML, and each of their commands is one that ours takes."""

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from recprune_export.cli import main

FOLDER = Path(__file__).parents[2] / "examples" / "ci"
PROGRAM = "recprune-export"


def scripts(value: Any) -> Iterator[str]:
    """Texts that a runner hands to a shell, wherever they stand."""
    if isinstance(value, dict):
        for key, inside in value.items():
            if key in ("run", "script", "before_script"):
                yield from [inside] if isinstance(inside, str) else inside
            else:
                yield from scripts(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from scripts(inside)


def commands(file: Path) -> list[list[str]]:
    texts = scripts(yaml.safe_load(file.read_text()))
    lines = [line for text in texts for line in text.replace("\\\n", " ").splitlines()]
    return [words[1:] for line in lines if (words := shlex.split(line))[0] == PROGRAM]


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yml")), ids=lambda f: f.name)
def test_every_command_is_one_of_ours(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = commands(file)
    monkeypatch.chdir(tmp_path)
    for path in {
        tmp_path / word
        for words in found
        for word in words
        if "/" in word or word.endswith((".parquet", ".pt", ".tar.zst"))
    }:
        path.parent.mkdir(parents=True, exist_ok=True)  # inputs are checked before anything runs
        path.touch() if path.suffix else path.mkdir(exist_ok=True)
    assert {"compress", "verify", "check"} <= {words[0] for words in found}
    for name, *words in found:
        command = main.commands[name]
        # Parses, converts and checks names, values and required arguments, and runs nothing.
        command.make_context(name, list(words), parent=click.Context(main))


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yml")), ids=lambda f: f.name)
def test_a_mistake_would_be_found(file: Path) -> None:
    name, *words = commands(file)[-1]
    with pytest.raises(click.UsageError):
        main.commands[name].make_context(name, [*words, "--max-regresion", "5%"])


def test_undecided_is_the_code_that_gitlab_allows() -> None:
    from recprune_export.errors import Undecided

    job = yaml.safe_load((FOLDER / "gitlab-ci.yml").read_text())["check"]
    assert job["allow_failure"]["exit_codes"] == [Undecided.exit_code]


def test_reports_that_are_kept_are_written() -> None:
    github, gitlab = (yaml.safe_load((FOLDER / f"{n}.yml").read_text()) for n in ("github-workflow", "gitlab-ci"))
    (kept,) = [
        step["with"]["path"].split()
        for step in github["jobs"]["gate"]["steps"]
        if "upload-artifact" in step.get("uses", "")
    ]
    (check,) = [words for words in commands(FOLDER / "github-workflow.yml") if words[0] == "check"]
    assert set(kept) <= set(check)
    assert gitlab["check"]["artifacts"]["reports"]["junit"] in " ".join(gitlab["check"]["script"])


def commit(folder: Path, *paragraphs: str) -> None:
    """Make an empty commit in a repository that knows no user."""
    user = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    words = [word for paragraph in paragraphs for word in ("-m", paragraph)]
    subprocess.run(["git", *user, "commit", "-q", "--allow-empty", *words], cwd=folder, check=True)


@pytest.mark.parametrize(
    ("event", "messages", "accepted"),
    [
        ("pull_request", ["Wider tables", "Accept-Regression: two more fields"], True),
        ("pull_request", ["Wider tables"], False),
        ("pull_request", ["Accept-Regression:"], False),  # no reason
        ("push", ["Wider tables"], True),  # the pull request was the gate
    ],
)
def test_a_commit_accepts_a_regression_for_itself(
    event: str, messages: list[str], accepted: bool, tmp_path: Path
) -> None:
    steps = yaml.safe_load((FOLDER / "github-workflow.yml").read_text())["jobs"]["gate"]["steps"]
    (script,) = [step["run"] for step in steps if step.get("id") == "accepted"]
    (check,) = [step for step in steps if "recprune-export check" in step.get("run", "")]
    assert "steps.accepted.outputs.regression == 'true'" in check["continue-on-error"]
    output = tmp_path / "output.txt"
    output.touch()
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    commit(tmp_path, "Base")
    subprocess.run(["git", "checkout", "-q", "-b", "change"], cwd=tmp_path, check=True)
    commit(tmp_path, "Earlier", "Accept-Regression: only for this commit")
    commit(tmp_path, *messages)
    if event == "pull_request":  # which is checked out as a merge with its target
        tree, parents = "HEAD^{tree}", ["-p", "HEAD~2", "-p", "HEAD"]
        user = ["-c", "user.name=a", "-c", "user.email=a@b"]
        made = subprocess.run(
            ["git", *user, "commit-tree", tree, *parents, "-m", "Merge"],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        )
        subprocess.run(["git", "reset", "-q", "--hard", made.stdout.strip()], cwd=tmp_path, check=True)
    environment = {**os.environ, "GITHUB_EVENT_NAME": event, "GITHUB_OUTPUT": str(output)}
    subprocess.run(["bash", "-e", "-o", "pipefail", "-c", script], cwd=tmp_path, env=environment, check=True)
    assert ("regression=true" in output.read_text()) == accepted


def test_gitlab_accepts_a_regression_by_the_same_line() -> None:
    first, second = yaml.safe_load((FOLDER / "gitlab-ci.yml").read_text())["check"]["rules"]
    assert "Accept-Regression: " in first["if"]
    assert first["allow_failure"] is True
    assert "allow_failure" not in second
