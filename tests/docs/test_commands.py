"""Each command on the pages for users takes the arguments and options that it is given there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from recprune_export.cli import main

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted([DOCS / "index.md", DOCS / "getting-started.md", *(DOCS / "how-to").glob("*.md")])
SHELL = re.compile(r"```sh\n(.*?)```", re.DOTALL)
FOLDERS = ("path/to/model", "artifacts/ctr", "artifacts/ctr-today", "artifacts/two_tower", "artifacts/sweep")


def list_commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command of ours, the main job with its name."""
    for block in SHELL.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines():
            program, *words = shlex.split(line)
            if program == "recprune-export":
                yield words if words[0] in main.commands else ["compress", *words]


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files and folders with the names that the pages use, since arguments are checked before the work."""
    monkeypatch.chdir(tmp_path)
    for folder in FOLDERS:
        (tmp_path / folder).mkdir(parents=True)
    for page in PAGES:
        for argument in {part for words in list_commands(page) for word in words for part in word.split("=")}:
            path = tmp_path / argument
            if path.suffix and not argument.startswith("-") and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()


@pytest.mark.usefixtures("inputs")
@pytest.mark.parametrize("page", [page for page in PAGES if list(list_commands(page))], ids=lambda page: page.stem)
def test_commands_parse(page: Path) -> None:
    for name, *words in list_commands(page):
        if "--config" not in words:  # which reads the file
            main.commands[name].make_context(name, words, parent=click.Context(main))


@pytest.mark.usefixtures("inputs")
def test_a_mistake_would_be_found() -> None:
    with pytest.raises(click.UsageError):
        main.commands["check"].make_context(
            "check", ["artifacts/ctr", "--max-regresion", "5%"], parent=click.Context(main)
        )


def test_most_pages_have_commands() -> None:
    assert len([page for page in PAGES if list(list_commands(page))]) >= 10
