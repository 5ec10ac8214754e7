"""`inspect` and `profile` of bundles and of any ONNX file."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from recprune_export.bundle import inspect_artifact, profile_artifact
from recprune_export.bundle.artifact_summary import make_request, open_artifact_file
from recprune_export.cli import main
from recprune_export.errors import BundleError, ModelFileError
from tests.bundle.samples import X, write
from tests.onnx.graphs import floats, graph, numbers


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two fields of a table, a linear layer that one input shares, an activation."""
    text = (
        "g (int64[batch, 2] ids, float[1, 3] user) => (float[batch, 16] y)"
        " { e = Gather(table, ids) f = Reshape(e, flat) u = MatMul(user, v) h = Gemm<transB=1>(f, w, u) y = Relu(h) }"
    )
    model = graph(text, table=floats(20, 4), flat=numbers(-1, 8), w=floats(16, 8), v=floats(3, 16))
    path = tmp_path_factory.mktemp("artifact") / "mlp.onnx"
    ir.save(model, path)
    return path


def test_a_file_is_inspected(mlp: Path) -> None:
    inspection = inspect_artifact(mlp, (1, 10), threads=1)
    assert inspection.counts.tables.parameters == 20 * 4
    assert inspection.costs[10].operations == 10 * 8 * 16 + 3 * 16  # what is shared is computed once
    assert inspection.costs[1].floor < inspection.costs[10].floor
    assert json.loads(json.dumps(inspection.to_dict()))["costs"]["10"]["operations"] == 10 * 8 * 16 + 3 * 16


def test_a_file_is_profiled(mlp: Path) -> None:
    profile = profile_artifact(mlp, 64, threads=1)
    assert sum(node.share for node in profile.nodes) == pytest.approx(1.0)
    assert [n.milliseconds for n in profile.nodes] == sorted((n.milliseconds for n in profile.nodes), reverse=True)
    by_operator = {node.operator: node for node in profile.nodes}
    layer = by_operator["FusedGemm"]  # ONNX Runtime made one of the layer and its activation
    assert layer.floor > 0.0
    assert by_operator["Gather"].floor > 0.0
    assert profile.floor > 0.0


def test_drawn_requests_are_valid(mlp: Path) -> None:
    request = make_request(open_artifact_file(mlp), 50)
    assert request["ids"].shape == (50, 2)
    assert request["ids"].max() < 20
    assert request["user"].shape == (1, 3)


def test_a_bundle_is_asked_its_golden_request(tmp_path: Path) -> None:
    bundle = write(tmp_path / "bundle")
    request = make_request(open_artifact_file(bundle), 5)
    np.testing.assert_array_equal(request["x"], np.concatenate([X, X[:2]]))
    assert inspect_artifact(bundle, (1,), threads=1).name == "double"


def test_commands(mlp: Path) -> None:
    inspected = CliRunner().invoke(main, ["inspect", str(mlp), "--latency-batch-sizes", "1,8"])
    assert inspected.exit_code == 0
    assert "80 parameters in tables" in inspected.output
    assert "This machine, 1 thread" in inspected.output
    profiled = CliRunner().invoke(main, ["profile", str(mlp), "--batch-size", "8"])
    assert profiled.exit_code == 0
    assert "FusedGemm" in profiled.output
    slowest = CliRunner().invoke(main, ["profile", str(mlp), "--batch-size", "8", "--nodes", "2"])
    assert "2 more" in slowest.output
    as_json = CliRunner().invoke(main, ["profile", str(mlp), "--batch-size", "8", "--json"])
    assert {"batch_size", "threads", "milliseconds", "floor_milliseconds", "nodes"} <= set(json.loads(as_json.output))


def test_what_is_no_artifact_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is no protobuf")
    (tmp_path / "empty.onnx").write_bytes(b"")
    for name in ("text.onnx", "empty.onnx", "absent.onnx"):
        with pytest.raises(ModelFileError):
            open_artifact_file(tmp_path / name)
    with pytest.raises(BundleError):
        open_artifact_file(tmp_path)
    assert CliRunner().invoke(main, ["profile", str(tmp_path / "absent.onnx")]).exit_code == 3


def test_torch_is_not_needed(mlp: Path) -> None:
    code = (
        "from click.testing import CliRunner; from recprune_export.cli import main; import sys\n"
        f"assert CliRunner().invoke(main, ['profile', {str(mlp)!r}, '--batch-size', '2']).exit_code == 0\n"
        f"assert CliRunner().invoke(main, ['inspect', {str(mlp)!r}]).exit_code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
