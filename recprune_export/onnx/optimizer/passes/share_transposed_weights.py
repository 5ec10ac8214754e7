"""One copy of a weight that is read both directly and transposed."""

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import get_constant_array, replace_node


def share_transposed_weights(model: ir.Model) -> None:
    """Replace a weight that is exactly the transpose of another one.

    Before: `MatMul(h, Eᵀ)` has a folded copy of a weight E that a Gather or a Gemm reads: a table that also scores items,
    a linear layer called with two and with three axes. After: `Gemm(h, E, transB=1)` where h has two axes, else
    `MatMul(h, Transpose(E))`; the copy is removed. ONNX Runtime runs the Gemm as fast as the MatMul, and transposes E
    once, when it loads the model.

    Time: in proportion to the weights, and to the pairs whose shapes are each other's transpose. Memory: no copy.
    """
    graph = model.graph
    candidates: dict[tuple[int | ir.SymbolicDim, ...], list[ir.Value]] = {}
    for value in graph.initializers.values():
        if value.shape is not None and any(_is_right_operand(user, position) for user, position in value.uses()):
            candidates.setdefault(tuple(value.shape), []).append(value)
    for original in [value for value in graph.initializers.values() if _is_read_directly(value)]:
        transposed = () if original.shape is None else candidates.get(tuple(original.shape)[::-1], ())
        for copy in list(_find_transposed_copies(original, transposed)):
            for node in [user for user, position in copy.uses() if _is_right_operand(user, position)]:
                _read_original(graph, node, original)
            if not copy.uses():
                # It may also be a copy of an earlier weight that is already removed.
                graph.initializers.pop(copy.name, None)  # type: ignore[arg-type]


def _is_read_directly(value: ir.Value) -> bool:
    return any(
        (user.op_type == "Gather" and position == 0)
        or (user.op_type == "Gemm" and position == 1 and user.attributes.get_int("transB", 0) == 1)
        for user, position in value.uses()
    )


def _is_right_operand(user: ir.Node, position: int) -> bool:
    return user.op_type == "MatMul" and position == 1


def _find_transposed_copies(original: ir.Value, values: Iterable[ir.Value]) -> Iterator[ir.Value]:
    """Yield the transposed copies of a weight among `values`, which have the transpose of its shape."""
    matrix = _get_matrix(original)
    if matrix is None:
        return
    for value in values:
        if value is original or value.dtype != original.dtype:
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
