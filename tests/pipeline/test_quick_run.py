"""A quick run: the same model, fewer measurements, and every reader of a bundle copes with what is not there."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from recprune_export.api import compress
from recprune_export.bundle import REPORT, open_bundle_path, pack, read_manifest, verify
from recprune_export.cli.compression_tables import print_result
from recprune_export.evidence import Verdict
from recprune_export.gate import Limits, check
from recprune_export.gate.limits import GATES
from recprune_export.pipeline import CompressionResult
from recprune_export.pipeline.evaluate_export import choose_measured_batches
from recprune_export.progress import quiet
from recprune_export.refresh.open_bundle import open_bundle
from recprune_export.report.bundle_page import render_saved_bundle_report
from recprune_export.settings import LatencySettings, Settings
from tests.jobs import invoke

BATCHES = (1, 8, 512)


def make_result(folder: Path, *, quick: bool) -> CompressionResult:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Embedding(100, 32), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))
    with quiet():
        return compress(
            module,
            torch.arange(4),
            folder / f"quick-{quick}",
            sparsity=0.5,
            epochs=0,
            latency_batch_sizes=BATCHES,
            quick=quick,
        )


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> CompressionResult:
    return make_result(tmp_path_factory.mktemp("jobs"), quick=True)


def test_latency_is_measured_at_the_batch_size_of_the_headline_alone(result: CompressionResult) -> None:
    manifest = read_manifest(result.target)
    assert set(manifest.latency["milliseconds"]) == set(manifest.latency["ratios"]) == {"8"}
    assert manifest.latency["speedup"]["batch"] == 8
    assert not {"cold", "footprint"} & set(manifest.latency)
    assert (result.footprints, REPORT in manifest.files) == (None, False)
    assert manifest.settings["quick"] is True


@pytest.mark.parametrize(("sizes", "measured"), [((1, 32, 256, 1024), (256,)), ((512, 1024), (512,)), ((1,), (1,))])
def test_without_quick_every_batch_size_is_measured(sizes: tuple[int, ...], measured: tuple[int, ...]) -> None:
    assert choose_measured_batches(LatencySettings(sizes)) == sizes
    assert choose_measured_batches(LatencySettings(sizes, quick=True)) == measured


def test_the_parts_that_are_left_out_are_named_in_manifest_readme_and_on_the_screen(
    result: CompressionResult, capsys: pytest.CaptureFixture[str]
) -> None:
    (note,) = [note for note in read_manifest(result.target).notes if note.startswith("--quick")]
    assert all(word in note for word in ("batch sizes 1, 512", "cold caches", "cold starts", "report page"))
    readme = (result.target / "README.md").read_text()
    assert note in readme
    assert "`report.html` shows" not in readme
    print_result(result, as_json=False)
    screen = capsys.readouterr()
    assert f"Note: {note}" in screen.err
    assert "In a fresh process" not in screen.out


def test_the_screen_has_the_key_figures_first_and_the_tables_on_request(
    result: CompressionResult, capsys: pytest.CaptureFixture[str]
) -> None:
    print_result(result, as_json=False)
    short = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in short[:2]] == ["Size", "Speed"]
    assert len(short) < 12
    assert any("recprune-export verify" in line for line in short)
    print_result(result, as_json=False, verbose=True)
    long = capsys.readouterr().out
    assert "Latency in ms" in long
    assert "Parity of" in long


def test_a_printed_result_is_its_key_figures(result: CompressionResult) -> None:
    lines = str(result).splitlines()
    assert [line.partition(":")[0] for line in (*lines[:2], lines[-1])] == ["Size", "Speed", "Bundle"]
    assert repr(result) == str(result)
    assert str(result.target) in result._repr_html_()
    assert "<th>Size</th>" in result._repr_html_()


@pytest.mark.slow
def test_the_model_is_that_of_a_whole_run_and_the_proofs_are_there(result: CompressionResult, tmp_path: Path) -> None:
    whole = make_result(tmp_path, quick=False)
    quick_file, whole_file = ((one.target / "model.onnx").read_bytes() for one in (result, whole))
    assert quick_file == whole_file
    assert (whole.target / REPORT).exists()
    assert "`report.html` shows" in (whole.target / "README.md").read_text()
    assert not [note for note in whole.notes if "--quick" in note]
    manifest = read_manifest(result.target)
    assert manifest.parity["outputs"] and manifest.plan["soundness"]  # noqa: PT018
    onnx.checker.check_model(onnx.load_from_string(quick_file))


def test_every_reader_of_a_bundle_copes(result: CompressionResult, tmp_path: Path) -> None:
    assert verify(result.target).rows == 16
    page = render_saved_bundle_report(result.target)
    assert "Latency at batch 8" in page
    assert "Cold caches" not in page
    assert open_bundle(result.target).settings == Settings.from_dict(read_manifest(result.target).settings)
    assert open_bundle(result.target).settings.latency.quick
    with open_bundle_path(pack(result.target, tmp_path / "quick.tar.zst")) as folder:
        assert read_manifest(folder).name == result.target.name
    done = invoke("inspect", result.target, "--latency-batch-sizes", "1", "--json")
    assert json.loads(done.stdout)


def test_a_gate_compares_quick_bundles(result: CompressionResult) -> None:
    unmeasured = ("load time", "peak memory", "latency")
    compared = check(result.target, result.target, Limits(overrides=dict.fromkeys(unmeasured)), batches=(8,))
    verdicts = {finding.gate: finding.verdict for finding in compared.findings}
    assert set(verdicts.values()) <= {Verdict.HOLDS, Verdict.SKIPPED}
    assert all(verdicts[gate] is Verdict.SKIPPED for gate in unmeasured if gate in verdicts)
    assert set(unmeasured) <= set(GATES)
