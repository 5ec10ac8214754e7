"""The CI examples are YAML, and each of their commands is one that ours takes."""

import shlex
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
