"""Small models as plain files and as bundles, without PyTorch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from recprune_export.bundle import write_bundle
from recprune_export.bundle.contents import make_npz
from recprune_export.onnx import make_session, run
from recprune_export.program import BATCH, Input, Output, Signature, sample_request
from tests.bundle.samples import manifest


@dataclass(frozen=True)
class Shape:
    """Two fields, a hidden layer of `units`; `idle` nodes do nothing at the end."""

    rows: int = 50
    dim: int = 4
    units: int = 8
    idle: int = 0
    names: tuple[str, str] = ("user", "item")
    zeros: int = 0

    def signature(self) -> Signature:
        inputs = tuple(Input(name, "int64", (BATCH,), ((0, self.rows - 1),)) for name in self.names)
        return Signature(inputs, (Output("click", "float32", (BATCH, 1)),))


def model(shape: Shape = Shape()) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    first = rng.normal(size=(2 * shape.dim, shape.units))
    first.flat[: shape.zeros] = 0.0
    weights = {f"t_{name}": rng.normal(size=(shape.rows, shape.dim)) for name in shape.names}
    weights |= {"w": first, "b": np.ones(shape.units), "v": rng.normal(size=(shape.units, 1)) / shape.units}
    nodes = [helper.make_node("Gather", [f"t_{name}", name], [f"e_{name}"]) for name in shape.names]
    nodes += [
        helper.make_node("Concat", [f"e_{name}" for name in shape.names], ["x"], axis=1),
        helper.make_node("Gemm", ["x", "w", "b"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "v"], ["y0"]),
    ]
    nodes += [helper.make_node("Sigmoid", [f"y{i}"], [f"y{i + 1}"]) for i in range(shape.idle)]
    nodes.append(helper.make_node("Sigmoid", [f"y{shape.idle}"], ["click"]))
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n"]) for name in shape.names],
        [helper.make_tensor_value_info("click", TensorProto.FLOAT, ["n", 1])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def plain(path: Path, shape: Shape = Shape()) -> Path:
    onnx.save(model(shape), path)
    return path


def bundle(target: Path, shape: Shape = Shape(), **changes: Any) -> Path:
    """A whole bundle; `changes` are fields of its manifest."""
    file = plain(target.with_suffix(".onnx"), shape)
    signature = shape.signature()
    request = sample_request(signature, 4, seed=0)
    answer = run(make_session(file, 1), request)
    files = {"model.onnx": file, "samples/inputs.npz": make_npz(request), "samples/outputs.npz": make_npz(answer)}
    stated = manifest(**{"name": target.name, "signature": signature.to_dict(), **changes})
    return write_bundle(target, files, stated)
