"""A weight that is read directly and transposed has one copy."""

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.optimizer.passes.share_transposed_weights import share_transposed_weights


def test_two_tables_of_equal_numbers_share_one_transposed_copy() -> None:
    table = np.arange(6, dtype=np.float32).reshape(3, 2)
    negative_zero = table.copy()
    negative_zero[0, 0] = -0.0  # other bytes, so that it is no duplicate of the table
    arrays = {"table": table, "negative_zero": negative_zero, "transposed": np.ascontiguousarray(table.T)}
    weights = {name: ir.Value(name=name, const_value=ir.tensor(a, name=name)) for name, a in arrays.items()}
    for value in weights.values():
        assert value.const_value is not None
        value.shape, value.type = ir.Shape(value.const_value.shape), ir.TensorType(ir.DataType.FLOAT)
    ids = ir.Value(name="ids", shape=ir.Shape(["batch"]), type=ir.TensorType(ir.DataType.INT64))
    x = ir.Value(name="x", shape=ir.Shape(["batch", 2]), type=ir.TensorType(ir.DataType.FLOAT))
    lookups = [ir.node("Gather", [weights[name], ids]) for name in ("table", "negative_zero")]
    nodes = [*lookups, ir.node("MatMul", [x, weights["transposed"]])]
    outputs = [node.outputs[0] for node in nodes]
    graph = ir.Graph([ids, x], outputs, nodes=nodes, initializers=list(weights.values()), opset_imports={"": 20})
    share_transposed_weights(ir.Model(graph, ir_version=10))
    assert list(graph.initializers) == ["table", "negative_zero"]
    assert [node.op_type for node in graph] == ["Gather", "Gather", "Gemm"]
