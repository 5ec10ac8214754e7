"""The notebooks of the tutorials run from top to bottom, and what they show is what they do."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import nbformat
import pytest

from docs.tutorials.execute import execute
from recprune_export.cli import main

TUTORIALS = sorted((Path(__file__).parents[2] / "docs" / "tutorials").glob("*.ipynb"))
QUICK = "own-dlrm"  # one of them runs in every gate, the others with the slow tests
RUN = [pytest.param(path, marks=() if path.stem == QUICK else (pytest.mark.slow,), id=path.stem) for path in TUTORIALS]


def list_commands(notebook: Path) -> Iterator[list[str]]:
    """Yield the words of each command of ours in the cells for bash."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code" and cell.source.startswith("%%bash"):
            for line in cell.source.replace("\\\n", " ").splitlines():
                words = shlex.split(line.partition(" 2>")[0])
                if words[:1] == ["recprune-export"]:
                    yield words[1:]


@pytest.mark.parametrize("notebook", RUN)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    outputs = [
        output for cell in execute(notebook, tmp_path).cells if cell.cell_type == "code" for output in cell.outputs
    ]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error"]


@pytest.mark.parametrize("notebook", TUTORIALS, ids=lambda path: path.stem)
def test_stored_outputs_are_those_of_one_run_from_the_top(notebook: Path) -> None:
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]


def test_commands_take_their_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = [command for notebook in TUTORIALS for command in list_commands(notebook)]
    assert {"verify", "predict", "check"} <= {command[0] for command in commands}
    monkeypatch.chdir(tmp_path)
    for word in {word for command in commands for word in command if word.startswith("artifacts/")}:
        (tmp_path / word).mkdir(parents=True, exist_ok=True)
    (tmp_path / "clicks.parquet").touch()
    for name, *words in commands:
        main.commands[name].make_context(name, words, parent=click.Context(main))
