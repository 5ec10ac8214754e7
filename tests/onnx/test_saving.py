"""A graph that was read from a file with external weights is written whole, wherever its weights lie then."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime

from recprune_export.onnx.graph import add_initializer
from recprune_export.onnx.saving import save_onnx


def make_sum(numbers: int) -> ir.Model:
    """x [numbers] -> x + w, with w from 0 to 1."""
    x = ir.Value(name="x", shape=ir.Shape([numbers]), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 18}, name="sum")
    node = ir.node("Add", [x, add_initializer(graph, "w", np.linspace(0, 1, numbers, dtype=np.float32))])
    graph.append(node)
    output = node.outputs[0]
    output.name, output.shape, output.type = "y", ir.Shape([numbers]), x.type
    graph.outputs.append(output)
    return ir.Model(graph, ir_version=10)


def test_external_weights_move_into_a_file_without_them(tmp_path: Path) -> None:
    first, second = tmp_path / "first.onnx", tmp_path / "folder" / "second.onnx"
    second.parent.mkdir()
    assert save_onnx(make_sum(1000), first, external_threshold=0) == tmp_path / "first.onnx.data"
    assert save_onnx(ir.load(first), second) is None
    (tmp_path / "first.onnx.data").unlink()
    session = onnxruntime.InferenceSession(second)
    (answer,) = session.run(None, {"x": np.zeros(1000, np.float32)})
    np.testing.assert_array_equal(answer, np.linspace(0, 1, 1000, dtype=np.float32))
