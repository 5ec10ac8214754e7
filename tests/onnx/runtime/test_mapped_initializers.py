"""Sessions whose weights a limit of data segments does not let ONNX Runtime map."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("resource")
ROWS, COLUMNS = 1 << 20, 64


def write_model(path: Path) -> None:
    """Write a lookup in a table of 256 MiB, of which only the last row holds anything but zeros."""
    tensor = onnx.TensorProto(name="table", data_type=onnx.TensorProto.FLOAT, dims=[ROWS, COLUMNS])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "model.data", "offset": "0", "length": str(4 * ROWS * COLUMNS)}.items():
        tensor.external_data.add(key=key, value=value)
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["batch"])
    rows = onnx.helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, ["batch", COLUMNS])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gather", ["table", "ids"], ["rows"])], "lookup", [ids], [rows], [tensor]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    with path.with_name("model.data").open("wb") as file:
        file.truncate(4 * ROWS * COLUMNS)
        file.seek(4 * (ROWS - 1) * COLUMNS)
        file.write(np.ones(COLUMNS, np.float32).tobytes())


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ulimit -d counts maps on Linux alone")
def test_a_file_larger_than_the_limit_answers(tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx")
    code = """
import resource, sys, numpy as np, onnxruntime
from pathlib import Path
from recprune_export.memory_limit import read_data_limit
from recprune_export.onnx.runtime.session import make_session, run
resource.setrlimit(resource.RLIMIT_DATA, (1 << 40, 1 << 40))
used = (1 << 40) - read_data_limit()
limit = used + (200 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
answer = run(make_session(Path(sys.argv[1]), 1), {"ids": np.array([0, -1])})["rows"]
print(answer.sum(axis=1).tolist())
"""
    process = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model.onnx")], capture_output=True, text=True, check=False
    )
    assert process.stdout.strip() == f"[0.0, {float(COLUMNS)}]", process.stderr[-1000:]
