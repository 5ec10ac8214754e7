"""Each command of the runtime works where nothing but what it requires can be imported.

`make floors` runs these tests with the lowest releases of all that it requires.
"""

import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from recprune_export.prediction import predict
from tests.bundle.archive.test_manifest_signature import key_pair
from tests.runtime.processes import Runtime

NO_TIMES = ("--limit", "latency=off", "--limit", "load time=off", "--limit", "peak memory=off")


def test_pytorch_is_not_there(runtime: Runtime) -> None:
    done = subprocess.run(
        [runtime.python, "-c", "import torch"], capture_output=True, text=True, env=runtime.environment
    )
    assert "No module named 'torch'" in done.stderr


def test_verify(runtime: Runtime, bundle: Path) -> None:
    assert runtime.json("verify", bundle)["file_count"] > 10


def test_verify_finds_a_changed_model(runtime: Runtime, bundle: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    model = copy / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    done = runtime.run("verify", copy)
    assert done.returncode == 3
    assert "changed 'model.onnx'" in done.stderr


@pytest.mark.slow
def test_verify_measures_latency(runtime: Runtime, bundle: Path) -> None:
    options = ("--latency", "--latency-batch-sizes", "1", "--thread-counts", "1", "--seconds", "0.2", "--qps", "100")
    assert runtime.json("verify", bundle, *options)["latency_study"]


def test_packed_and_signed_bundles(runtime: Runtime, bundle: Path, tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "key")
    copy = shutil.copytree(bundle, tmp_path / "signed")
    runtime.output("sign", copy, "--private-key", private)
    runtime.output("pack", copy, "-o", tmp_path / "signed.tar.zst")
    assert runtime.json("verify", tmp_path / "signed.tar.zst", "--public-key", public)["signature_check"] == "valid"


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_predict_gives_the_scores_of_the_whole_tool(
    runtime: Runtime, bundle: Path, clicks_file: Path, tmp_path: Path, suffix: str
) -> None:
    rows = tmp_path / f"rows{suffix}"
    frame = pl.read_parquet(clicks_file).head(500)
    frame.write_csv(rows) if suffix == ".csv" else frame.write_parquet(rows)
    runtime.output("predict", bundle, "--data", rows, "-o", tmp_path / "runtime.parquet", "--keep", "user")
    predict(bundle, rows, tmp_path / "whole.parquet", keep=("user",))
    scores = [pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("runtime", "whole")]
    assert_frame_equal(*scores, rel_tol=1e-4, abs_tol=1e-5)


def test_a_predictor_and_folders_give_the_scores_of_the_whole_tool(
    runtime: Runtime, bundle: Path, clicks_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "rows").mkdir()
    frame = pl.read_parquet(clicks_file).head(300)
    frame.write_parquet(tmp_path / "rows" / "a.parquet")
    runtime.output("predict", bundle, "--data", tmp_path / "rows", "-o", tmp_path / "scores", "--quiet")
    code = (
        "import sys, polars as pl\n"
        "from recprune_export import Predictor\n"
        "Predictor(sys.argv[1])(pl.read_parquet(sys.argv[2])).write_parquet(sys.argv[3])"
    )
    command = [runtime.python, "-c", code, bundle, tmp_path / "rows" / "a.parquet", tmp_path / "batch.parquet"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, env=runtime.environment, check=False)
    assert done.returncode == 0, done.stderr
    predict(bundle, tmp_path / "rows" / "a.parquet", tmp_path / "whole.parquet")
    for made in ("scores/a.parquet", "batch.parquet"):
        assert_frame_equal(
            pl.read_parquet(tmp_path / made), pl.read_parquet(tmp_path / "whole.parquet"), rel_tol=1e-4, abs_tol=1e-5
        )


def test_check_of_bundles_with_all_its_files(runtime: Runtime, bundle: Path, tmp_path: Path) -> None:
    files = {f"--{kind}": tmp_path / name for kind, name in
             {"junit": "check.xml", "markdown": "check.md", "report": "check.html"}.items()}  # fmt: skip
    options = [word for pair in files.items() for word in pair]
    assert runtime.json("check", bundle, "--against", bundle, *NO_TIMES, *options)["verdict"] == "pass"
    assert all(file.stat().st_size > 100 for file in files.values())


def test_check_of_plain_models_finds_a_larger_one(runtime: Runtime, bundle: Path) -> None:
    models = (bundle / "dense.onnx", "--against", bundle / "model.onnx")
    done = runtime.run("check", *models, *NO_TIMES, "--json")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_check_measures_latency(runtime: Runtime, bundle: Path) -> None:
    options = ("--latency-batch-sizes", "1", "--time-limit", "1", "--undecided", "pass")
    found = runtime.json("check", bundle, "--against", bundle, *options, "--max-regression", "900%")
    assert "latency, batch 1" in str(found)


def test_inspect_and_profile(runtime: Runtime, bundle: Path) -> None:
    assert "multiply-adds" in runtime.output("inspect", bundle)
    assert runtime.json("profile", bundle / "dense.onnx", "--batch-size", "8")["nodes"]


@pytest.mark.slow
def test_inspect_a_model_and_profile_a_bundle(runtime: Runtime, bundle: Path) -> None:
    assert runtime.json("inspect", bundle / "model.onnx")["cost"]
    assert "operator" in runtime.output("profile", bundle)


def test_the_table_of_check(runtime: Runtime, bundle: Path) -> None:
    assert "Verdict: holds" in runtime.output("check", bundle, "--against", bundle, *NO_TIMES)


def test_report(runtime: Runtime, bundle: Path, tmp_path: Path) -> None:
    runtime.output("report", bundle, "-o", tmp_path / "page.html")
    assert "<html" in (tmp_path / "page.html").read_text(encoding="utf-8")
    found = runtime.json("report", bundle, bundle, "-o", tmp_path / "pair.html")
    assert found["latency_differences"] == []
    assert "<html" in (tmp_path / "pair.html").read_text(encoding="utf-8")


def test_doctor_and_help(runtime: Runtime) -> None:
    assert runtime.json("doctor")["ok"]
    listed = runtime.output("--help")
    assert "verify" in listed
    assert "refresh" not in listed
    assert "_RECPRUNE_EXPORT_COMPLETE" in runtime.output("completion", "bash")
