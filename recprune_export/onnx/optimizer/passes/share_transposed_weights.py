"""One copy of a weight that is read as it is and transposed."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import get_constant_array, replace_node


def share_transposed_weights(model: ir.Model) -> None:
    """Replace a weight that is exactly the transpose of another by that other.

    Before: `MatMul(h, Eᵀ)` has a folded copy of a weight E that a Gather or a Gemm reads: a table that also scores items,
    a linear layer called with two and with three axes. After: `Gemm(h, E, transB=1)` where h has two axes, else
    `MatMul(h, Transpose(E))`; the copy is gone. ONNX Runtime runs the Gemm as fast as the MatMul, and transposes E once,
    when it loads the model.
    """
    graph = model.graph
    for original in [value for value in graph.initializers.values() if _is_read_as_it_is(value)]:
        for copy in list(_transposes(graph, original)):
            for node in [user for user, position in copy.uses() if user.op_type == "MatMul" and position == 1]:
                _read_original(graph, node, original)
            if not copy.uses():
                del graph.initializers[copy.name]  # type: ignore[arg-type]


def _is_read_as_it_is(value: ir.Value) -> bool:
    return any(
        (user.op_type == "Gather" and position == 0)
        or (user.op_type == "Gemm" and position == 1 and user.attributes.get_int("transB", 0) == 1)
        for user, position in value.uses()
    )


def _transposes(graph: ir.Graph, original: ir.Value) -> Iterator[ir.Value]:
    wanted = _matrix(original)
    if wanted is None:
        return
    for value in list(graph.initializers.values()):
        if value is original or value.shape != ir.Shape(wanted.shape[::-1]) or value.dtype != original.dtype:
            continue
        found = _matrix(value)
        # The first row is compared before the whole, which may be large.
        if found is not None and np.array_equal(found.T[:1], wanted[:1]) and np.array_equal(found.T, wanted):
            yield value


def _matrix(value: ir.Value) -> np.ndarray | None:
    array = get_constant_array(value)
    return array if array is not None and array.ndim == 2 and array.dtype.kind == "f" else None


def _read_original(graph: ir.Graph, node: ir.Node, original: ir.Value) -> None:
    left = node.inputs[0]
    assert left is not None
    if left.shape is not None and len(left.shape) == 2:
        new = [ir.node("Gemm", [left, original], attributes={"transB": 1})]
    else:
        transposed = ir.node("Transpose", [original], attributes={"perm": [1, 0]})
        new = [transposed, ir.node("MatMul", [left, transposed.outputs[0]])]
    replace_node(graph, node, new)
