"""A job file repeats a job, holds no code to run, and says what is wrong in a sentence."""

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from recprune_export import api
from recprune_export.cli import main
from recprune_export.cli.job_file import format_job, read_job
from recprune_export.errors import InputFileError, UsageError
from tests.cli.test_reproduce_command import EVERY_OPTION, run

COMPRESS = main.commands["compress"]


def job_of(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], str]:
    asked, _ = run(words, "compress", monkeypatch, UsageError("enough"))
    return dict(asked), asked["job_file"]


def test_a_job_file_repeats_the_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["my models/ctr.pt", "--data", 'rows "new".csv', "--shared-inputs", "user", "--no-triton", "--no-dense"]
    asked, job = job_of([*words, *without_code(EVERY_OPTION), "--sparsity", "0.85"], monkeypatch)
    path = tmp_path / "job.toml"
    path.write_text(job, encoding="utf-8")
    again, same = job_of(["--config", str(path)], monkeypatch)
    assert same == job
    assert again["settings"] == asked["settings"]
    assert (again["model"], again["data"], again["labels"]) == (asked["model"], asked["data"], asked["labels"])
    changed, _ = job_of(["other.pt", "--config", str(path), "--sparsity", "0.5"], monkeypatch)
    assert changed["model"] == Path("other.pt")
    assert changed["settings"] == asked["settings"].with_options(sparsity=0.5)


def without_code(options: list[str]) -> list[str]:
    """The options without those that name code, each with its value."""
    kept, skip = [], False
    for word in options:
        if word in ("--factory", "--factory-args", "--inputs"):
            skip = True
        elif skip:
            skip = False
        elif word != "--unsafe-unpickle":
            kept.append(word)
    return kept


@pytest.mark.parametrize(
    "words",
    [
        ["--factory", "shop.models:make"],
        ["--unsafe-unpickle"],
        ["--sign", "key.pem"],
        ["--mlflow", "elsewhere"],
        ["--shards", "elsewhere"],
    ],
)
def test_a_job_file_names_no_code_no_key_and_no_place_to_write(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, job = job_of(["ctr.pt", *words], monkeypatch)
    assert all(line.startswith(("#", "model")) for line in job.splitlines())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sparsity = ", "is not a job file"),
        ("sparsty = 0.5", "Did you mean 'sparsity'"),
        ('factory = "os:system"', "give --factory on the command line"),
        ("unsafe-unpickle = true", "give --unsafe-unpickle on the command line"),
        ('mlflow = "/elsewhere"', "give --mlflow on the command line"),
        ("sparsity = [0.1, 0.2]", "must be a single value"),
        ('quick = "yes"', "must be true or false"),
        ("sparsity = true", "requires a value"),
        ("epochs = 1.5", "must be an integer, not 1.5"),
        ("seed = 1e3", "must be an integer, not 1000.0"),
    ],
)
def test_a_wrong_job_file_is_refused_in_a_sentence(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(text)
    with pytest.raises(InputFileError, match=r"job\.toml"):
        read_job(tmp_path / "job.toml", COMPRESS)
    done = CliRunner().invoke(main, ["--config", str(tmp_path / "job.toml")])
    assert done.exit_code == 3
    assert words in done.output


def test_a_folder_is_no_job_file(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["--config", str(tmp_path)])
    assert done.exit_code == 3
    assert done.output == (
        f"Error: {tmp_path} cannot be read: Is a directory. Give a TOML file of options, such as the job.toml of a bundle.\n"
    )


def test_values_of_a_wrong_type_are_refused_as_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job.toml").write_text('model = "m.pt"\nepochs = "many"\n')
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.pt").touch()
    done = CliRunner().invoke(main, ["--config", "job.toml"])
    assert done.exit_code == 2
    assert "--epochs" in done.output


def test_a_bundle_holds_the_job_file(tmp_path: Path) -> None:
    import torch

    folder = tmp_path / "ctr"
    model = torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    api.compress(model, torch.zeros(2, 4), folder, job_file="sparsity = 0.5\n", epochs=0, quick=True)
    assert (folder / "job.toml").read_text() == "sparsity = 0.5\n"


def test_defaults_are_left_out() -> None:
    assert format_job(click.Context(COMPRESS)) == ""
