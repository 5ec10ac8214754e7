"""`--quantize` in the main job: what the bundle says, that it verifies, and what happens where nothing may be lost."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import nn

from recprune_export.api import compress
from recprune_export.bundle import inspect_artifact, read_manifest, read_samples, verify
from recprune_export.cli import main
from recprune_export.errors import UsageError
from recprune_export.finetuning import run_program
from recprune_export.onnx import count
from recprune_export.pipeline import _quantize_export as quantize_export
from recprune_export.program import load_program
from recprune_export.quantization import QualityLoss, quantize
from recprune_export.quantization.quantization_plan import INT8_BY_ROW, INT8_ONE_SCALE, INT8_STATIC
from recprune_export.settings import Settings
from tests.quantization.times import favouring

QUICK = Settings(epochs=1, latency_batch_sizes=(1, 64), sparsity=0.5, quantize="int8", max_quantize_drop=0.01)
FAST = favouring(INT8_STATIC, INT8_BY_ROW)  # which layers of this size are not


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, clicks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("bundle") / "ctr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            quantize_export, "quantize", lambda *arguments, **options: quantize(*arguments, **options, stopwatch=FAST)
        )
        compress(checkpoint, target=target, data=clicks_file, settings=QUICK)
    return target


def test_the_bundle_verifies_within_what_it_states(bundle: Path) -> None:
    assert verify(bundle).rows == 16
    manifest = read_manifest(bundle)
    assert manifest.tolerances["absolute"] == pytest.approx(1e-5 + 4 * manifest.quantization["spread"])
    assert manifest.tolerances["absolute"] < 0.01


def test_the_section_says_what_was_done(bundle: Path) -> None:
    stated = read_manifest(bundle).quantization
    forms = {choice["form"] for choice in (*stated["layers"], *stated["tables"])}
    assert INT8_BY_ROW in forms
    assert forms & {INT8_STATIC, INT8_ONE_SCALE}  # whichever answers as nearly
    assert stated["loss"]["metric"] == "auc"
    assert stated["loss"]["lost"] <= stated["loss"]["limit"] == 0.01
    low, high = stated["loss"]["interval"]
    assert low <= high
    assert stated["bytes"]["after"] == (bundle / "model.onnx").stat().st_size < stated["bytes"]["before"]
    assert set(stated["speedups"]) == {"1", "64"}


def test_the_readme_says_so(bundle: Path) -> None:
    assert "fewer bits (int8 by row, int8 static" in (bundle / "README.md").read_text()


def test_parity_is_that_of_the_file_in_fp32(bundle: Path) -> None:
    parity = read_manifest(bundle).parity
    assert parity["passed"]
    assert parity["tolerances"] == {"absolute": 1e-5, "relative": 1e-5}
    # Answers to numbers far out of range are large, so that one float32 step of them is more than 1e-5.
    assert max(min(output["max_absolute"], output["max_relative"]) for output in parity["outputs"]) < 1e-5


def test_golden_outputs_are_those_of_what_is_served(bundle: Path) -> None:
    golden, request = (read_samples(bundle / "samples" / f"{name}.npz") for name in ("outputs", "inputs"))
    unquantized = run_program(load_program(bundle / "model.pt2").program, request)
    differences = [np.abs(unquantized[name] - values).max() for name, values in golden.items()]
    assert 1e-6 < max(differences) < 0.1


def test_counts_are_those_of_the_parameters(bundle: Path) -> None:
    manifest, counts = read_manifest(bundle), count(bundle / "model.onnx")
    dense = manifest.counts["dense"]
    assert manifest.counts["pruned"] == counts.to_dict()
    integers = [t for t in onnx.load(bundle / "model.onnx").graph.initializer if t.data_type == onnx.TensorProto.INT8]
    assert sum(int(np.prod(tensor.dims)) for tensor in integers) > 0.8 * counts.total.parameters
    assert counts.total.nonzero <= 0.51 * sum(dense[part]["parameters"] for part in ("tables", "rest"))
    assert inspect_artifact(bundle, (1,), 1).counts == counts


@pytest.mark.slow
def test_nothing_allowed_means_nothing_quantized_and_says_so(
    checkpoint: Path, clicks_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strict(*arguments: Any, **options: Any) -> Any:
        *others, calibration, timed, judge = arguments

        def judged(before: Any, after: Any) -> QualityLoss:
            one, other = before(calibration[0]), after(calibration[0])
            same = all(np.array_equal(one[name], other[name]) for name in one)
            lost = 0.0 if same else 0.02
            return replace(judge(before, after), lost=lost, interval=(lost, lost))

        return quantize(*others, calibration, timed, judged, **options, stopwatch=FAST)

    monkeypatch.setattr(quantize_export, "quantize", strict)
    result = compress(checkpoint, target=tmp_path / "b", data=clicks_file, settings=QUICK.with_options(epochs=0))
    assert {choice["form"] for choice in result.manifest.quantization["layers"]} == {"fp32"}
    assert result.manifest.tolerances == {"absolute": 1e-5, "relative": 1e-5}
    assert any(note.startswith("Reverted to more bits to keep quality") for note in result.notes)
    assert any(note.startswith("Nothing was quantized") for note in result.notes)
    assert verify(tmp_path / "b").rows == 16


def test_without_rows_the_answers_themselves_are_the_gate(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(3000, 16), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
    wishes = {"sparsity": 0.3, "epochs": 0, "batches": (1, 32), "quantize": "fp16"}
    stated = compress(model, torch.arange(4), tmp_path / "b", **wishes).manifest.quantization
    assert stated["loss"]["metric"] == "error of the answers"
    assert stated["loss"]["limit"] == pytest.approx(0.001**0.5)
    assert stated["loss"]["interval"] is None
    assert [table["form"] for table in stated["tables"]] == ["fp16"]
    assert not stated["layers"]
    assert verify(tmp_path / "b").rows == 16


@pytest.mark.slow
def test_measured_on_this_machine_from_the_command_line(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    options = ["--epochs", "0", "--latency-batch-sizes", "1,64", "--quantize", "int8"]
    arguments = [str(checkpoint), "--data", str(clicks_file), *options, "-o", str(tmp_path / "b")]
    called = CliRunner().invoke(main, arguments)
    assert called.exit_code == 0, called.output
    assert "Tables, quantized for int8" in called.output
    stated = json.loads((tmp_path / "b" / "manifest.json").read_text())["quantization"]
    assert {table["form"] for table in stated["tables"]} > {"fp32"}
    assert all(len(choice["speedups"]) == 2 for choice in stated["layers"] if choice["form"] != "fp32")
    assert verify(tmp_path / "b").rows == 16


@pytest.mark.slow
def test_inputs_that_are_shared(checkpoint: Path, clicks_file: Path, tmp_path: Path) -> None:
    settings = QUICK.with_options(epochs=0, quantize="fp16", shared_inputs=("user",))
    result = compress(checkpoint, target=tmp_path / "b", data=clicks_file, settings=settings)
    manifest = result.manifest
    assert any("before it was quantized" in note for note in result.notes)
    assert manifest.quantization["loss"]["metric"] == "error of the answers"
    assert "fp16" in {table["form"] for table in manifest.quantization["tables"]}
    assert verify(tmp_path / "b").rows == 16


def test_wrong_wishes_are_told() -> None:
    with pytest.raises(UsageError, match="--quantize must be one of none, fp16, int8, int4, got 'int2'"):
        Settings(quantize="int2")
    with pytest.raises(UsageError, match="--max-quantize-drop must lie in"):
        Settings(max_quantize_drop=-0.1)
