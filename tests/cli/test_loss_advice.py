"""The commands after a large loss can be pasted: they ask for the same job, by bytes or by the allowed drop."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from recprune_export import api
from recprune_export.cli import main
from recprune_export.cli.loss_advice import Advice, make_loss_advice
from recprune_export.errors import UsageError
from tests.jobs import invoke

JOB = ["my models/ctr.pt", "--data", "new rows.csv", "--label", "click", "--epochs", "3", "--seed", "7", "--no-triton"]
SPARSITY = ["--sparsity", "0.95", "--quantize", "int8", "--structured-fraction", "0.5", "--resume"]


@pytest.fixture(autouse=True)
def _input_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (JOB[0], JOB[2]):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()


def advise(words: list[str], verdict: str = "fails") -> tuple[Advice, ...]:
    """Return the advice after a job of these arguments."""
    command = main.commands["compress"]
    manifest = SimpleNamespace(quality={"verdict": verdict, "limit": 0.002, "metric": "auc"})
    result: Any = SimpleNamespace(
        manifest=manifest, target=Path("artifacts/my ctr"), counts={"pruned": SimpleNamespace(bytes=401_234)}
    )
    return make_loss_advice(command.make_context("compress", list(words)), result)


def read_arguments(command: str, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """Return what a pasted command asks of `api.compress`."""
    given: dict[str, Any] = {}

    def instead(model: Path, **options: Any) -> Any:
        given.update(options, model=model)
        raise UsageError("enough")

    monkeypatch.setattr(api, "compress", instead)
    name, *words = shlex.split(command)
    assert name == "recprune-export"
    done = invoke(*words)
    assert given, done.output
    return given


def test_both_commands_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    equal, smallest = advise([*JOB, *SPARSITY])
    assert "predicted" in equal.label
    by_bytes, by_drop = (read_arguments(advice.command, monkeypatch) for advice in (equal, smallest))
    assert by_bytes["settings"].pruning.byte_limit.bytes == 401_234
    assert by_drop["settings"].search.max_drop == 0.002
    for given in (by_bytes, by_drop):
        settings = given["settings"]
        assert (given["model"], given["data"], given["labels"]) == (Path(JOB[0]), Path(JOB[2]), ("click",))
        assert (settings.finetuning.epochs, settings.seed, settings.export.triton) == (3, 7, False)
        assert settings.quantization.quantize == "none"
        assert settings.pruning.structured_fraction is None
    assert len({str(given["target"]) for given in (by_bytes, by_drop)} | {"artifacts/my ctr"}) == 3


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        (SPARSITY, "holds"),
        (SPARSITY, "cannot be told"),
        (["--max-bytes", "10%"], "fails"),
        (["--max-drop", "0.1"], "fails"),
    ],
)
def test_there_is_no_advice_without_a_certain_loss_of_a_sparsity(options: list[str], verdict: str) -> None:
    assert advise([*JOB, *options], verdict) == ()


def test_every_left_out_option_is_one_of_the_command() -> None:
    from recprune_export.cli.reproduce_command import SPARSITY_ONLY

    assert {p.name for p in main.commands["compress"].params if isinstance(p, click.Option)} >= SPARSITY_ONLY
