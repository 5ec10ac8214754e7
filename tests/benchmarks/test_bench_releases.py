"""Files of each kind give their golden answers in the oldest ONNX Runtime that they state, and in the newest."""

import sys
from pathlib import Path

import pytest

from recprune_export.bundle import read_manifest
from recprune_export.runtime_releases import OLDEST, RELEASE_OF_OPSET

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_each_kind_passes_in_the_oldest_and_the_newest_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_releases

    monkeypatch.setattr(
        bench_releases,
        "KINDS",
        {"fp32": {}, "opset 21": {"opset": 21}, "int4, onnx": {"quantize": "int4", "operators": "onnx"}},
    )
    bundles = bench_releases.make_bundles(tmp_path / "bundles")
    oldest = bench_releases.run_python("onnxruntime", bench_releases.install("1.17.3", tmp_path), bundles)
    newest = bench_releases.run_python("onnxruntime", ":".join(sys.path), bundles)
    for bundle in bundles:
        runtime = read_manifest(bundle).runtime
        assert runtime is not None
        assert newest[bundle.name]["model.onnx"] == "pass"
        assert (oldest[bundle.name]["model.onnx"] == "pass") is (runtime["onnxruntime"] == OLDEST)
    assert RELEASE_OF_OPSET[21] != OLDEST  # so that one of the kinds is refused by the oldest release
