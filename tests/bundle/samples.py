"""A tiny bundle: y = 2x as ONNX, without PyTorch."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from recprune_export.bundle import Manifest, write_bundle
from recprune_export.bundle.contents import make_npz

X = np.array([1.0, 2.0, 3.0], dtype=np.float32)


def model() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "two"], ["y"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(np.array(2.0, dtype=np.float32), "two")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    made.ir_version = 10
    return bytes(made.SerializeToString())


def manifest(**changes: object) -> Manifest:
    values: dict[str, object] = {
        "name": "double",
        "created": "2026-01-02T03:04:05+00:00",
        "opset": 20,
        "signature": {
            "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch"], "ids": [], "observed": None}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch"]}],
        },
        "counts": {"dense": {}, "pruned": {}},
        "metrics": {"dense": {}, "pruned": {}},
        "tolerances": {"absolute": 1e-5, "relative": 1e-5},
        **{name: {} for name in ("parity", "latency", "plan", "settings", "environment")},
    }
    return Manifest(**{**values, **changes})  # type: ignore[arg-type]


def files(y: np.ndarray = 2 * X) -> dict[str, Path | bytes]:
    return {"model.onnx": model(), "samples/inputs.npz": make_npz({"x": X}), "samples/outputs.npz": make_npz({"y": y})}


def write(target: Path) -> Path:
    return write_bundle(target, files(), manifest())
