"""A further ONNX file of a bundle is held to the answers of `model.onnx`, by the job, by `verify` and by `check`."""

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from recprune_export.bundle import read_manifest, verify, write_bundle
from recprune_export.bundle.contents import make_npz
from recprune_export.derived import DeriveModel
from recprune_export.errors import BundleError, ValidationFailed
from recprune_export.evidence import Verdict
from recprune_export.gate import Finding, Limits, _check, check, derived_files, open_artifact
from recprune_export.gate.latency.sequential_sampling import BASE, NEW, sample_latency
from recprune_export.pipeline import compress_program
from recprune_export.program.capture import capture
from recprune_export.report.bundle_page import render_saved_bundle_report
from recprune_export.settings import Settings
from tests.derived.negated import derive_negated
from tests.gate.synthetic import synthetic

NAME = "model.negated.onnx"
SETTINGS = Settings(sparsity=0.5, epochs=0, latency_batch_sizes=(1, 8), quick=True)


def make_bundle(target: Path, derive: tuple[DeriveModel, ...] = (derive_negated,), width: int = 16) -> Path:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(100, 32), nn.Linear(32, width), nn.ReLU(), nn.Linear(width, 1))
    return compress_program(capture(module, (torch.arange(4),)), target, SETTINGS, derive=derive).target


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("derived") / "bundle")


def change(bundle: Path, target: Path, **files: bytes) -> Path:
    """Return a bundle with other contents of some files, whose checksums are right."""
    manifest = read_manifest(bundle)
    contents = {name: (bundle / name).read_bytes() for name in manifest.files}
    return write_bundle(target, contents | files, manifest)


def find(findings: tuple[Finding, ...], gate: str) -> Finding:
    return next(finding for finding in findings if finding.gate == gate)


def test_the_manifest_has_parity_latency_and_load_time_of_each_file(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    entry = manifest.models[NAME]
    assert set(entry["latency"]["milliseconds"]["8"]) == {NAME, "model.onnx"}
    assert list(entry["latency"]["ratios"]["8"]) == [f"{NAME} / model.onnx"]
    assert entry["parity"]["passed"]
    assert set(entry["load_milliseconds"]) == {NAME, "model.onnx"}
    assert {NAME, *entry["samples"].values()} <= set(manifest.files)
    readme = (bundle / "README.md").read_text()
    assert f"`{NAME}` gives the negative scores and their sign." in readme
    assert "| output | `sign` | str |" in readme


def test_a_file_with_other_answers_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValidationFailed, match=rf"{NAME} does not reproduce the outputs of model\.onnx.*'negated'"):
        make_bundle(tmp_path / "bundle", (partial(derive_negated, factor=-1.01),))
    assert not (tmp_path / "bundle").exists()


def test_verify_runs_the_golden_request_of_each_file(bundle: Path) -> None:
    outputs = verify(bundle).outputs
    assert [(output.file, output.name) for output in outputs][1:] == [(NAME, "negated"), (NAME, "sign")]


@pytest.mark.parametrize("output", ["negated", "sign"])
def test_verify_names_the_file_whose_golden_output_differs(bundle: Path, tmp_path: Path, output: str) -> None:
    sample = read_manifest(bundle).models[NAME]["samples"]["outputs"]
    answers = dict(np.load(bundle / sample))
    answers[output] = answers[output][::-1] if output == "sign" else answers[output] + 1
    answers["sign"][0] = "none"
    changed = change(bundle, tmp_path / "changed", **{sample: make_npz(answers)})
    with pytest.raises(
        ValidationFailed, match=f"Output '{output}' of {NAME}" if output == "negated" else "Output 'sign'"
    ):
        verify(changed)


def test_a_manifest_whose_file_is_absent_is_refused(bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle)
    contents = {name: (bundle / name).read_bytes() for name in manifest.files if name != NAME}
    with pytest.raises(BundleError, match=rf"\$\.models: '{NAME}' is not among the files"):
        read_manifest(write_bundle(tmp_path / "without", contents, manifest))


def test_weights_outside_of_the_bundle_are_refused(bundle: Path, tmp_path: Path) -> None:
    proto = onnx.load(bundle / NAME)
    tensor = numpy_helper.from_array(np.zeros(4, dtype=np.float32), "outside")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../weights.bin"), ("length", "16")):
        tensor.external_data.add(key=key, value=value)
    proto.graph.initializer.append(tensor)
    with pytest.raises(BundleError, match=NAME):
        verify(change(bundle, tmp_path / "changed", **{NAME: proto.SerializeToString()}))


@pytest.mark.parametrize(("ratio", "verdict"), [(1.0, Verdict.HOLDS), (1.5, Verdict.FAILS)])
def test_check_compares_each_file(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, ratio: float, verdict: Verdict
) -> None:
    monkeypatch.setattr(_check, "make_sampler", lambda *_: synthetic(1.0, 0.005))
    monkeypatch.setattr(derived_files, "make_sampler", lambda *_: synthetic(ratio, 0.005))
    limits = Limits(overrides={"load time": None, "peak memory": None})
    done = check(bundle, bundle, limits, batches=(8,), time_limit=0.0)
    assert find(done.findings, f"signature of {NAME}").verdict is Verdict.HOLDS
    assert find(done.findings, "latency, batch 8").verdict is Verdict.HOLDS
    assert find(done.findings, f"latency of {NAME}, batch 8").verdict is verdict


def test_rows_of_a_file_are_timed(bundle: Path) -> None:
    file = open_artifact(bundle).derived[NAME]
    models = {name: (str(file.model), file.options.to_dict()) for name in (NEW, BASE)}
    sample = sample_latency(models, file.signature.to_dict(), [4], 1, NEW, 0, str(file.rows))
    assert len(sample["4"]["times"][NEW]) == len(sample["4"]["times"][BASE]) > 0


def test_the_report_shows_each_file(bundle: Path) -> None:
    page = render_saved_bundle_report(bundle)
    assert "Other ONNX files" in page
    assert f"{NAME} gives the negative scores and their sign." in page


def test_check_names_a_file_that_new_lacks(bundle: Path, tmp_path: Path) -> None:
    new = make_bundle(tmp_path / "without", ())
    done = check(new, bundle, Limits(overrides={"latency": None, "load time": None, "peak memory": None}))
    finding = find(done.findings, f"signature of {NAME}")
    assert (finding.verdict, finding.reason) == (Verdict.FAILS, "NEW does not contain this file.")
