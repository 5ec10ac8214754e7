"""Budgets that exclude each other are refused in one sentence, before any work."""

import json
from pathlib import Path

import pytest

from recprune_export.cli.commands.compress import print_planned_point
from recprune_export.pruning import Plan
from recprune_export.pruning.storage_plan import RatePoint, StoragePlan
from recprune_export.stored_bits import StoredBits
from tests.bundle.servers.serving.served import serve
from tests.jobs import QUICK_OPTIONS, assert_refused, invoke


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-bytes", "10%", "--sparsity", "0.7"], "leave out --sparsity"),
        (["--max-bytes", "10%", "--quantize", "int8"], "leave out --quantize"),
        (["--max-bytes", "much"], "is not a size"),
        (["--max-drop", "0.01", "--sparsity", "0.7"], "--minimize latency"),
        (["--max-drop", "0.01", "--quantize", "int8"], "--minimize latency"),
        (["--target-latency", "5"], "0.5ms@256"),
        (["--target-latency", "5ms@1", "--plan-only"], "made for one operating point: leave out --target-latency"),
        (["--max-batch", "8"], "--max-batch must be 32 or more"),
        (["--mlflow", "."], "is not empty, so it is not replaced"),
    ],
)
def test_what_excludes_itself_is_refused(options: list[str], words: str, tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    model.write_bytes(b"not read")
    assert_refused(invoke(model, *options, "-o", tmp_path / "ctr"), 2, words)
    assert not (tmp_path / "ctr").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--max-bytes", "10%"], "leave out --max-bytes"),
        (["--quantize", "int8"], "leave out --quantize"),
        (["--max-drop", "0.01"], "leave out --max-drop"),
    ],
)
def test_a_plan_with_bits_leaves_nothing_to_choose(options: list[str], words: str, tmp_path: Path) -> None:
    model, plan = tmp_path / "model.pt", tmp_path / "plan.json"
    model.write_bytes(b"not read")
    storage = StoragePlan(StoredBits({"user": 4}), 1_010, RatePoint(1_000, 0.002), 0.002)
    plan.write_text(json.dumps(Plan("output-error", (), storage=storage).to_dict()))
    done = invoke(model, *options, "--plan", plan, "-o", tmp_path / "ctr")
    assert_refused(done, 2, words)


def test_the_planned_point_is_printed_beside_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    storage = {
        "bits": {"tables": {"user": 4}, "layers": {}, "other_layers": 32},
        "max_bytes": 1_010,
        "point": {"bytes": 1_000, "loss": 0.002},
        "least_loss_estimate": 0.002,
        "curve": [{"bytes": 800, "loss": 0.004}, {"bytes": 1_300, "loss": 0.001}, {"bytes": 2_000, "loss": 0.0001}],
    }
    print_planned_point(json.dumps({"storage": storage}))
    out, err = capsys.readouterr()
    assert not out
    assert err == (
        "Bytes: 1.00 kB, at most 1.01 kB; predicted loss 0.0020, 0.0040 at 800 B, 0.0010 at 1.30 kB; bits of tables: 1 in 4\n"
    )
    print_planned_point(json.dumps({"groups": []}))
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_an_mlflow_folder_is_written_beside_the_bundle(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    done = invoke(
        checkpoint, "--data", clicks_file, *QUICK_OPTIONS, "--quick", "-o", tmp_path / "ctr",
        "--mlflow", tmp_path / "models/ctr", "--max-batch", "256",
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "models/ctr/model.onnx").read_bytes() == (tmp_path / "ctr/model.onnx").read_bytes()
    assert "max_batch_size: 256" in (tmp_path / "ctr/triton/ctr/config.pbtxt").read_text()
    with serve(tmp_path / "ctr") as served:
        rows = json.loads((tmp_path / "ctr/samples/predict-request.json").read_text())["rows"]
        assert served.ask("/predict", {"rows": rows * 8})[0] == 200
        status, answered = served.ask("/predict", {"rows": rows * 9})
    assert (status, answered["error"]) == (413, "The request has 288 rows, but this server accepts at most 256.")
