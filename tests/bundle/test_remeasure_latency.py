"""`verify --latency`: the same harness, on a bundle, without PyTorch."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from recprune_export.bundle import measure_bundle, write_bundle
from recprune_export.cli import main
from recprune_export.onnx import DEFAULT_OPTIONS, SessionOptions
from recprune_export.progress import quiet
from recprune_export.validation import DENSE_ONNX, PRUNED_ONNX
from recprune_export.validation.latency import latency_study as study
from tests.bundle.samples import files, manifest, model

QUICK = ["--latency", "--latency-batch-sizes", "1,4", "--seconds", "0.05"]


def write(target: Path, dense: bool, options: SessionOptions = DEFAULT_OPTIONS) -> Path:
    more = {"dense.onnx": model()} if dense else {}
    return write_bundle(target, {**files(), **more}, manifest(session={"options": options.to_dict()}))


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = study.measure_footprints
    monkeypatch.setattr(study, "measure_footprints", lambda *arguments: honest(*arguments, repeats=1))


@pytest.mark.parametrize("dense", [pytest.param(True, marks=pytest.mark.slow), False])
def test_everything_is_measured_beside_the_dense_baseline_where_there_is_one(dense: bool, tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle", dense)
    done = CliRunner().invoke(main, ["verify", str(bundle), *QUICK, "--thread-counts", "1,2", "--qps", "200", "--json"])
    assert done.exit_code == 0, done.stderr
    measured = json.loads(done.stdout)["latency_study"]
    names = {DENSE_ONNX, PRUNED_ONNX} if dense else {PRUNED_ONNX}
    assert [report["threads"] for report in measured["closed_loop"]] == [1, 2]
    assert [report["threads"] for report in measured["open_loop"]] == [1, 2]
    for report in (*measured["closed_loop"], *measured["open_loop"]):
        assert set(report["milliseconds"]) == {"1", "4"}
        assert set(report["milliseconds"]["4"]) == names
    assert names == set(measured["footprints"]["models"])


def test_the_options_of_the_manifest_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    honest = study.make_onnxruntime_backend
    monkeypatch.setattr(study, "make_onnxruntime_backend", lambda *a: (used.append(a), honest(*a))[1])
    options = SessionOptions(threads=2, arena=False)
    with quiet():
        measure_bundle(write(tmp_path / "bundle", False, options), batches=(1,), threads=(1,), seconds=0.01)
    assert [(threads, given) for _, _, threads, given in used] == [(1, options)]


def test_tables_are_printed(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle", True)
    done = CliRunner().invoke(main, ["verify", str(bundle), *QUICK, "--thread-counts", "1", "--qps", "100"])
    assert done.exit_code == 0, done.stderr
    for said in ("double: 4 files", "Latency in ms", "Latency from arrival", "In a fresh process", "pruned ONNX"):
        assert said in done.stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--threads", "some"], "--threads"),
        (["--threads", "0"], "--threads"),
        (["--latency-batch-sizes", "x"], "--latency-batch-sizes"),
    ],
)
def test_wrong_options_are_said(options: list[str], said: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["verify", str(write(tmp_path / "bundle", False)), *QUICK, *options])
    assert done.exit_code == 2
    assert said in done.stderr
