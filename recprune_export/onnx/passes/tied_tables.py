"""One copy of a table that is looked up and also multiplied with."""

import numpy as np
import onnx_ir as ir


def share_transposed(model: ir.Model) -> None:
    """Replace a weight that is exactly the transpose of a table by that table.

    Before: `MatMul(h, Eᵀ)` has a folded copy of a table E that a Gather reads. After: `Gemm(h, E, transB=1)` where h
    has two axes, else `MatMul(h, Transpose(E))`; the copy is gone. ONNX Runtime runs the Gemm as fast as the MatMul.
    """
    graph = model.graph
    tables = [value for value in graph.initializers.values() if any(n.op_type == "Gather" for n in value.consumers())]
    for table in tables:
        for copy in _transposes(graph, table):
            for node in list(copy.consumers()):
                if node.op_type == "MatMul" and node.inputs[1] is copy:
                    _read_table(graph, node, table)
            if not copy.uses():
                del graph.initializers[copy.name]  # type: ignore[arg-type]


def _transposes(graph: ir.Graph, table: ir.Value) -> list[ir.Value]:
    wanted = _array(table)
    if wanted is None or wanted.ndim != 2 or wanted.dtype.kind != "f":
        return []
    others = [v for v in graph.initializers.values() if v is not table and v.shape == ir.Shape(wanted.shape[::-1])]
    return [v for v in others if (found := _array(v)) is not None and np.array_equal(found.T, wanted)]


def _array(value: ir.Value) -> np.ndarray | None:
    return None if value.const_value is None else value.const_value.numpy()


def _read_table(graph: ir.Graph, node: ir.Node, table: ir.Value) -> None:
    left, result = node.inputs[0], node.outputs[0]
    assert left is not None
    if left.shape is not None and len(left.shape) == 2:
        new = [ir.node("Gemm", [left, table], attributes={"transB": 1})]
    else:
        transposed = ir.node("Transpose", [table], attributes={"perm": [1, 0]})
        new = [transposed, ir.node("MatMul", [left, transposed.outputs[0]])]
    last = new[-1].outputs[0]
    last.name, last.shape, last.type = result.name, result.shape, result.type
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, [result], [last])
