"""One copy of a weight that is read both directly and transposed."""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import get_constant_array, replace_node


def share_transposed_weights(model: ir.Model) -> None:
    """Replace a weight that is exactly the transpose of another one.

    Before: `MatMul(h, Eᵀ)` has a folded copy of a weight E that a Gather or a Gemm reads: a table that also scores items,
    a linear layer called with two and with three axes. After: `Gemm(h, E, transB=1)` where h has two axes, else
    `MatMul(h, Transpose(E))`; the copy is removed. ONNX Runtime runs the Gemm as fast as the MatMul, and transposes E
    once, when it loads the model.
    """
    graph = model.graph
    for original in [value for value in graph.initializers.values() if _is_read_directly(value)]:
        for copy in list(_find_transposed_copies(graph, original)):
            for node in [user for user, position in copy.uses() if user.op_type == "MatMul" and position == 1]:
                _read_original(graph, node, original)
            if not copy.uses():
                del graph.initializers[copy.name]  # type: ignore[arg-type]


def _is_read_directly(value: ir.Value) -> bool:
    return any(
        (user.op_type == "Gather" and position == 0)
        or (user.op_type == "Gemm" and position == 1 and user.attributes.get_int("transB", 0) == 1)
        for user, position in value.uses()
    )


def _find_transposed_copies(graph: ir.Graph, original: ir.Value) -> Iterator[ir.Value]:
    matrix = _get_matrix(original)
    if matrix is None:
        return
    for value in list(graph.initializers.values()):
        if value is original or value.shape != ir.Shape(matrix.shape[::-1]) or value.dtype != original.dtype:
            continue
        candidate = _get_matrix(value)
        # The first row is compared before the whole matrix, which may be large.
        if (
            candidate is not None
            and np.array_equal(candidate.T[:1], matrix[:1])
            and np.array_equal(candidate.T, matrix)
        ):
            yield value


def _get_matrix(value: ir.Value) -> np.ndarray | None:
    array = get_constant_array(value)
    return array if array is not None and array.ndim == 2 and array.dtype.kind == "f" else None


def _read_original(graph: ir.Graph, node: ir.Node, original: ir.Value) -> None:
    operand = node.inputs[0]
    assert operand is not None
    if operand.shape is not None and len(operand.shape) == 2:
        new = [ir.node("Gemm", [operand, original], attributes={"transB": 1})]
    else:
        transposed = ir.node("Transpose", [original], attributes={"perm": [1, 0]})
        new = [transposed, ir.node("MatMul", [operand, transposed.outputs[0]])]
    replace_node(graph, node, new)
