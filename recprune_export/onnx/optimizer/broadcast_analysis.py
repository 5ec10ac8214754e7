"""Values of a graph that are the same for all rows of a request because they depend only on shared inputs."""

import ast
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from recprune_export.onnx.graph import Dim, get_dims, get_rank

# Operands are aligned at their last axes, and an axis of size 1 is broadcast.
_BROADCASTING = {
    "Add", "Sub", "Mul", "Div", "Pow", "Where", "And", "Or", "Xor", "Equal", "Greater", "Less", "GreaterOrEqual",
    "LessOrEqual", "Min", "Max", "Mod", "PRelu",
}  # fmt: skip
# The results of these differ between rows even if all rows of the operands are equal.
_BY_ROW = {"Range", "NonZero", "CumSum"}


@dataclass(frozen=True)
class SharedValues:
    """The `values` that need a single row, and the `shapes` of all values with a row for each candidate."""

    values: frozenset[ir.Value]
    shapes: Mapping[ir.Value, Sequence[Dim] | None]
    batch: str

    def shape(self, value: ir.Value) -> ir.Shape:
        """Return the shape of a value for one row."""
        return ir.Shape(compute_one_row_shape(self.shapes[value], self.batch) or [])

    def has_batch_first(self, value: ir.Value | None) -> bool:
        """Return whether the batch is axis 0 of a value and no other, so that its row can be repeated."""
        shape = self.shapes.get(value) if value is not None else None
        return bool(shape) and str(shape[0]) == self.batch and all(isinstance(size, int) for size in shape[1:])  # type: ignore[index]

    def broadcasts(self, node: ir.Node, value: ir.Value | None) -> bool:
        """Return whether an operator broadcasts the single row of `value` over the rows of its other operands."""
        axes, shape = get_rank(node.outputs[0]), self.shapes[node.outputs[0]]
        if not shape or str(shape[0]) != self.batch or not self.has_batch_first(value) or get_rank(value) != axes:
            return False
        if node.op_type == "MatMul":
            return axes is not None and axes >= 3 and all(get_rank(operand) == axes for operand in node.inputs)
        return node.op_type in _BROADCASTING


def find_shared_values(graph: ir.Graph, shared: Sequence[ir.Value]) -> SharedValues:
    """Find the values that depend only on the inputs `shared`.

    Where such a value is combined with a row for each candidate in a form that can neither be broadcast nor repeated
    (flattened rows, sizes), the nodes that compute it run for every row.
    """
    shapes = {value: get_dims(value) for node in graph for value in node.outputs}
    shapes |= {value: get_dims(value) for value in graph.inputs}
    (batch,) = {str(shape[0]) for value in shared if (shape := shapes[value])}
    per_row: set[ir.Node] = set()
    while True:
        shared_values = SharedValues(frozenset(_propagate_shared(graph, shared, shapes, batch, per_row)), shapes, batch)
        unrepeatable = _find_unrepeatable(graph, shared_values)
        if not unrepeatable:
            return shared_values
        per_row |= unrepeatable


def _propagate_shared(
    graph: ir.Graph,
    shared: Sequence[ir.Value],
    shapes: Mapping[ir.Value, Sequence[Dim] | None],
    batch: str,
    per_row: set[ir.Node],
) -> set[ir.Value]:
    shared_values, varying = set(shared), set(graph.inputs)
    for node in graph:
        operands = [value for value in node.inputs if value is not None and value in varying]
        if operands:
            varying |= set(node.outputs)
        known = all(compute_one_row_shape(shapes[value], batch) is not None for value in node.outputs)
        if not operands or not known or node in per_row or node.op_type in _BY_ROW:
            continue
        if all(value in shared_values for value in operands):
            shared_values |= set(node.outputs)
    return shared_values


def _find_unrepeatable(graph: ir.Graph, shared_values: SharedValues) -> set[ir.Node]:
    """Return nodes whose values would have to be repeated, and cannot be."""
    unrepeatable = set()
    for node in graph:
        for value in node.inputs:
            if node.outputs[0] in shared_values.values or value is None or value not in shared_values.values:
                continue
            if not shared_values.broadcasts(node, value) and not shared_values.has_batch_first(value):
                unrepeatable.add(value.producer())
    unrepeatable |= {
        value.producer()
        for value in graph.outputs
        if value in shared_values.values and not shared_values.has_batch_first(value)
    }
    return {node for node in unrepeatable if node is not None}


_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def compute_one_row_shape(shape: Sequence[Dim] | None, batch: str) -> list[int] | None:
    """Return a shape for a batch of 1; None if a size is not an arithmetic term of the batch.

    >>> compute_one_row_shape([ir.SymbolicDim("5*batch"), 3], "batch")
    [5, 3]
    """
    try:
        return None if shape is None else [_evaluate_dim(size, batch) for size in shape]
    except (KeyError, SyntaxError, ValueError):
        return None


def _evaluate_dim(size: Dim, batch: str) -> int:
    if isinstance(size, int):
        return size
    return _evaluate_term(ast.parse(re.sub(rf"\b{re.escape(batch)}\b", "1", str(size.value)), mode="eval").body)


def _evaluate_term(term: ast.expr) -> int:
    match term:
        case ast.Constant(value=int(number)):
            return number
        case ast.BinOp(left, sign, right):
            return int(_ARITHMETIC[type(sign)](_evaluate_term(left), _evaluate_term(right)))
    raise ValueError(f"{ast.dump(term)} is not an integer")
