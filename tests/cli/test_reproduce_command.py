"""The line with which a command says how to go on can be pasted, and asks for what was asked before."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from recprune_export import api
from recprune_export.cli import main
from recprune_export.errors import UsageError
from recprune_export.evidence import Estimate
from recprune_export.metrics import MetricChange
from recprune_export.search import ArtifactMeasurements, OperatingPoint, Sweep, Trial
from recprune_export.search.recommend_point import Recommendation

EVERY_OPTION = [
    *(
        "--infer-rules",
        "--factory",
        "shop.models:make",
        "--factory-args",
        '{"dim": 8, "name": "a b"}',
        "--inputs",
        "a request.npz",
        "--key",
        "ema",
    ),
    *("--label", "click", "--label", "like it", "--score", "taylor", "--epochs", "3", "--learning-rate", "0.0005"),
    *("--weight", "share of a day", "--missing-label", "-1", "--metric", "gauc", "--group", "user"),
    *("--batch-size", "64", "--structured-fraction", "0.5", "--quantize", "int8"),
    *("--max-quantize-drop", "0.002", "--seed", "7", "--threads", "2", "--latency-batch-sizes", "1,64"),
    *("--split", "the part", "--metric", "gauc", "--group", "user"),
    *("--separator", ";", "--encoding", "latin-1", "--allow-unknown", "--quick", "--outputs", "score,probability"),
    *("--no-stream", "--readers", "2"),
]


def run(words: list[str], job: str, monkeypatch: pytest.MonkeyPatch, result: Any) -> tuple[Mapping[str, Any], str]:
    """What a command asks of a function in `jobs` that gives `result` or raises it, and what it prints."""
    asked: dict[str, Any] = {}

    def instead(model: Path, **given: Any) -> Any:
        asked.update(given, model=model)
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(api, job, instead)
    monkeypatch.setattr(os.path, "exists", lambda path: True)
    done = CliRunner().invoke(main, words)
    assert asked, done.output
    return asked, done.output


def found() -> Sweep:
    artifact = ArtifactMeasurements(10, 10, 100, {1: 0.1}, {1: Estimate(2.0, 1.9, 2.1)})
    return Sweep(
        (Trial(OperatingPoint("sparsity", 0.85), 7, MetricChange("auc", 0.8, 0.79, 0.005, -0.02, 0.0), artifact),),
        None,
        Recommendation(OperatingPoint("sparsity", 0.85), "the smallest"),
    )


def pasted(output: str) -> list[str]:
    (line,) = (line for line in output.splitlines() if line.startswith("Next:"))
    name, *words = shlex.split(line.removeprefix("Next:"))
    assert name == "recprune-export"
    return words


@pytest.mark.parametrize("options", [EVERY_OPTION, ["--unsafe-unpickle"], []], ids=["every", "flag", "none"])
def test_a_sweep_goes_on_with_the_same_job(options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = ["sweep", "my models/ctr.pt", "--data", "new rows.csv", "--sparsities", "0.85", "-o", str(tmp_path)]
    swept, output = run([*where, *options], "sweep", monkeypatch, found())
    again, _ = run(pasted(output), "compress", monkeypatch, UsageError("enough"))
    for name in ("model", "data", "labels", "source"):
        assert again[name] == swept[name]
    assert again["settings"] == swept["settings"].with_options(sparsity=0.85)
    assert again["target"] is None  # not among the results of the sweep


def test_every_option_of_a_job_is_tried_above() -> None:
    common = {parameter.name for parameter in main.commands["sweep"].params}
    common &= {parameter.name for parameter in main.commands["compress"].params}
    given = {
        parameter.name
        for parameter in main.commands["sweep"].params
        if {*parameter.opts, *parameter.secondary_opts} & set(EVERY_OPTION)
    }
    one_of_the_split = {"split_by_time", "split_by_user"}  # with --split they would be refused
    assert common - given - one_of_the_split == {
        "model", "data", "unsafe_unpickle", "output", "as_json", "quiet", "config", "max_drop", "jobs"
    }  # fmt: skip


def test_a_trained_model_goes_on_with_its_rows(
    clicks_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "some rows.parquet"
    rows.write_bytes(clicks_file.read_bytes())
    words = ["train", "--data", str(rows), "--label", "clicked", "--dim", "4", "--hidden", "8", "--epochs", "1"]
    done = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "model.pt")])
    asked, _ = run(pasted(done.output), "compress", monkeypatch, UsageError("enough"))
    assert (asked["model"], asked["data"]) == (tmp_path / "model.pt", rows)
