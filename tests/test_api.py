"""The bundle of the main job on files, whole: what it holds, and what can be done with it."""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
import torch
from onnx import numpy_helper

from recprune_export.api import compress
from recprune_export.bundle import read_manifest, verify
from recprune_export.bundle.servers import serving
from recprune_export.onnx import SessionOptions, make_session, run
from recprune_export.program import load_program
from recprune_export.report import render_saved_bundle_report
from tests.bundle.pbtxt import parse
from tests.bundle.servers.serving.served import serve
from tests.bundle.servers.test_kserve import array
from tests.jobs import QUICK, assert_refused, invoke
from tests.report.properties import check_page


def test_the_bundle_is_complete_and_verifies(bundle: Path) -> None:
    names = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert names == {
        "model.onnx", "model.pt2", "dense.onnx", "encoding.json", "plan.json", "README.md", "manifest.json",
        "data_profile.json", "report.html",
        "samples/inputs.npz", "samples/outputs.npz", "samples/kserve-request.json", "samples/kserve-response.json",
        "samples/triton-request.json", "samples/triton-response.json",
        "samples/raw-rows.json", "samples/predict-request.json", "samples/predict-response.json", "kserve/inference-service.yaml",
        "serve_onnxruntime.py",
        *(f"serving/{name}.py" for name in ("__init__", *serving.__all__)),
        "samples/out-of-range-inputs.npz", "samples/out-of-range-outputs.npz",
        "triton/ctr/config.pbtxt", "triton/ctr/1/model.onnx",
        *(f"triton/ctr/warmup/input-{n}" for n in range(len(json.loads((bundle / "manifest.json").read_text())["signature"]["inputs"]))),
    }  # fmt: skip
    assert verify(bundle).rows == 16


def test_the_manifest_says_what_the_bundle_was_made_of(bundle: Path, checkpoint: Path, clicks_file: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    for what, path in (("model", checkpoint), ("data", clicks_file)):
        told = manifest["provenance"][what]
        assert (told["name"], told["bytes"]) == (path.name, path.stat().st_size)
        assert told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert set(manifest["provenance"]["seeds"]) == {"compression", "training"}
    assert manifest["license"] is None
    encoding, inputs = manifest["encoding"], {i["name"]: i for i in manifest["signature"]["inputs"]}
    assert {*encoding["vocabularies"], "numeric"} == set(inputs)
    for name, vocabulary in encoding["vocabularies"].items():
        assert inputs[name]["ids"] == [[0, vocabulary["first"] + vocabulary["values"] - 1]]


def test_a_real_model_is_batched_by_triton_and_answers_as_the_samples_say(bundle: Path) -> None:
    config = parse((bundle / "triton/ctr/config.pbtxt").read_text())
    assert config.max_batch_size == 4096
    asked, said = (json.loads((bundle / f"samples/triton-{part}.json").read_text()) for part in ("request", "response"))
    ranks = {
        i["name"]: len(i["shape"]) for i in json.loads((bundle / "manifest.json").read_text())["signature"]["inputs"]
    }
    request = {t["name"]: array(t).reshape(t["shape"][: ranks[t["name"]]]) for t in asked["inputs"]}
    answer = run(make_session(bundle / "triton/ctr/1/model.onnx", 1), request)
    for tensor in said["outputs"]:
        np.testing.assert_allclose(answer[tensor["name"]].ravel(), array(tensor).ravel(), atol=1e-5)


def test_the_page_in_the_bundle_is_that_of_its_manifest(bundle: Path) -> None:
    page = (bundle / "report.html").read_text()
    assert render_saved_bundle_report(bundle) == page
    check_page(page)
    manifest = read_manifest(bundle)
    low, high = manifest.change["interval"]
    assert low <= manifest.change["after"] - manifest.change["before"] <= high
    assert manifest.change["after"] == pytest.approx(manifest.metrics["pruned"]["auc"], abs=1e-6)
    assert manifest.change["before"] == pytest.approx(manifest.metrics["dense"]["auc"], abs=1e-6)
    for of in manifest.latency["milliseconds"].values():
        for values in of.values():
            known = dict(zip(manifest.latency["percents"], values["distribution"], strict=True))
            assert [known[p] for p in (50, 95, 99)] == pytest.approx([values[f"p{p}"] for p in (50, 95, 99)], abs=1e-6)


def test_session_options_and_cold_starts_are_stated(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["session"] == {"options": SessionOptions(threads=QUICK.latency.threads).to_dict()}
    assert SessionOptions.from_dict(manifest["session"]["options"]).code() in (bundle / "README.md").read_text()
    for name in ("dense ONNX", "pruned ONNX"):
        assert manifest["latency"]["footprint"][name]["load"] > 0


def test_the_sparsity_asked_for_is_in_the_file(bundle: Path) -> None:
    counts = json.loads((bundle / "manifest.json").read_text())["counts"]
    for part in ("tables", "rest"):
        assert counts["pruned"][part]["nonzero"] <= 0.3 * counts["dense"][part]["parameters"]
    weights = [numpy_helper.to_array(t) for t in onnx.load(bundle / "model.onnx").graph.initializer]
    assert sum(int((w == 0).sum()) for w in weights if w.dtype == np.float32) > 0


def test_the_program_in_the_bundle_is_a_model_again(bundle: Path, clicks_file: Path, tmp_path: Path) -> None:
    program = load_program(bundle / "model.pt2").program
    answers = np.load(bundle / "samples/outputs.npz")
    request = {name: torch.from_numpy(a) for name, a in np.load(bundle / "samples/inputs.npz").items()}
    with torch.no_grad():
        np.testing.assert_allclose(program(request)["clicked"].numpy(), answers["clicked"], atol=1e-6)
    again = compress(bundle / "model.pt2", target=tmp_path / "again", settings=QUICK)
    assert again.reduction.tables > 0.69


def test_the_readme_runs_as_written(bundle: Path) -> None:
    code = (bundle / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(bundle)
        exec(code, names)
    golden = np.load(bundle / "samples/outputs.npz")
    np.testing.assert_allclose(names["response"]["clicked"], golden["clicked"], atol=1e-5)  # type: ignore[index]


def test_predict_and_the_program_of_the_bundle_score_a_real_model(
    bundle: Path, clicks_file: Path, tmp_path: Path
) -> None:
    done = invoke("predict", bundle, "--data", clicks_file, "-o", tmp_path / "scores.parquet")
    assert done.exit_code == 0, done.output
    scores, rows = (
        pl.read_parquet(tmp_path / "scores.parquet")["clicked_logit"].to_numpy(),
        pl.read_parquet(clicks_file),
    )
    assert len(scores) == len(rows)
    assert np.corrcoef(scores, rows["clicked"].to_numpy())[0, 1] > 0.05
    with serve(bundle) as served:
        status, answer = served.ask("/predict", {"rows": rows.head(300).to_dicts()})
    assert status == 200
    plain = np.array(answer["outputs"]["clicked"], dtype=np.float32)
    np.testing.assert_allclose(plain, scores[:300], atol=1e-6)


def test_inspect_says_what_can_go(checkpoint: Path) -> None:
    values = json.loads(invoke("inspect", checkpoint, "--json").stdout)
    assert values["parameter_counts"]["tables"] > values["parameter_counts"]["rest"] > 0
    assert {group["kind"] for group in values["groups"]} == {"embedding", "hidden"}
    assert all(axis["reason"] for axis in values["frozen"])
    shown = invoke("inspect", checkpoint)
    assert shown.exit_code == 0
    assert "Channel groups" in shown.stdout


def test_inspect_compares_scores(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    model.write_bytes(checkpoint.read_bytes())
    done = invoke("inspect", model, "--scores", "--data", clicks_file, "--json")
    assert done.exit_code == 0, done.stderr
    groups = json.loads(done.stdout)["sensitivity"]["groups"]
    assert {"taylor", "output-error"} <= set(groups[0]["scores"])
    shown = invoke("inspect", model, "--scores")
    assert shown.exit_code == 0, shown.stderr
    assert "Rank agreement" in shown.stdout
    assert_refused(invoke("inspect", model, "--data", clicks_file), 2, "give --scores as well")


def test_train_and_generate_from_the_command_line(tmp_path: Path) -> None:
    assert invoke("generate", "--rows", 800, "-o", tmp_path / "rows.csv").exit_code == 0
    options = ["--data", tmp_path / "rows.csv", "--label", "clicked", "--epochs", 1, "--hidden", "8,4", "--dim", 4]
    done = invoke("train", *options, "--recommender", "dcn_v2", "-o", tmp_path / "model.pt")
    assert done.exit_code == 0, done.stderr
    assert "Test: auc" in done.stdout
    assert_refused(
        invoke("train", *options, "--recommender", "dcn", "-o", tmp_path / "no.pt"), 2, "'dcn' is not a recommender"
    )
