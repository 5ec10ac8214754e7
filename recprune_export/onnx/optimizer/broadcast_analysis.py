"""Which values of a graph are the same for all rows of a request, because some inputs are."""

import ast
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from recprune_export.onnx.graph import Dim, get_dims, get_rank

# Operands are aligned at their last axes, and an axis of size 1 is read for every index.
_BROADCASTING = {
    "Add", "Sub", "Mul", "Div", "Pow", "Where", "And", "Or", "Xor", "Equal", "Greater", "Less", "GreaterOrEqual",
    "LessOrEqual", "Min", "Max", "Mod", "PRelu",
}  # fmt: skip
# Of a number of rows these make something that differs from row to row.
_BY_ROW = {"Range", "NonZero", "CumSum"}


@dataclass(frozen=True)
class SharedValues:
    """The `values` that one row is enough for, and the `shapes` that all values have with a row for each candidate."""

    values: frozenset[ir.Value]
    shapes: Mapping[ir.Value, Sequence[Dim] | None]
    batch: str

    def shape(self, value: ir.Value) -> ir.Shape:
        """Return the shape of a value for one row."""
        return ir.Shape(compute_one_row_shape(self.shapes[value], self.batch) or [])

    def has_batch_first(self, value: ir.Value | None) -> bool:
        """Whether the batch is axis 0 of a value and nowhere else, so that its row can be repeated."""
        shape = self.shapes.get(value) if value is not None else None
        return bool(shape) and str(shape[0]) == self.batch and all(isinstance(size, int) for size in shape[1:])  # type: ignore[index]

    def broadcasts(self, node: ir.Node, value: ir.Value | None) -> bool:
        """Whether an operator reads one row of `value` for all rows of its other operands, as it is."""
        axes, shape = get_rank(node.outputs[0]), self.shapes[node.outputs[0]]
        if not shape or str(shape[0]) != self.batch or not self.has_batch_first(value) or get_rank(value) != axes:
            return False
        if node.op_type == "MatMul":
            return axes is not None and axes >= 3 and all(get_rank(operand) == axes for operand in node.inputs)
        return node.op_type in _BROADCASTING


def find_shared_values(graph: ir.Graph, shared: Sequence[ir.Value]) -> SharedValues:
    """Find what depends on the inputs `shared` alone.

    Where such a value would meet a row for each candidate in a form that can neither be broadcast nor repeated (rows laid
    end to end, sizes), the nodes that make it are computed for every row.
    """
    shapes = {value: get_dims(value) for node in graph for value in node.outputs}
    shapes |= {value: get_dims(value) for value in graph.inputs}
    (batch,) = {str(shape[0]) for value in shared if (shape := shapes[value])}
    forced: set[ir.Node] = set()
    while True:
        found = SharedValues(frozenset(_reached(graph, shared, shapes, batch, forced)), shapes, batch)
        stuck = _stuck(graph, found)
        if not stuck:
            return found
        forced |= stuck


def _reached(
    graph: ir.Graph,
    shared: Sequence[ir.Value],
    shapes: Mapping[ir.Value, Sequence[Dim] | None],
    batch: str,
    forced: set[ir.Node],
) -> set[ir.Value]:
    once, varying = set(shared), set(graph.inputs)
    for node in graph:
        operands = [value for value in node.inputs if value is not None and value in varying]
        if operands:
            varying |= set(node.outputs)
        known = all(compute_one_row_shape(shapes[value], batch) is not None for value in node.outputs)
        if not operands or not known or node in forced or node.op_type in _BY_ROW:
            continue
        if all(value in once for value in operands):
            once |= set(node.outputs)
    return once


def _stuck(graph: ir.Graph, found: SharedValues) -> set[ir.Node]:
    """Nodes whose values would have to be repeated, and cannot be."""
    stuck = set()
    for node in graph:
        for value in node.inputs:
            if node.outputs[0] in found.values or value is None or value not in found.values:
                continue
            if not found.broadcasts(node, value) and not found.has_batch_first(value):
                stuck.add(value.producer())
    stuck |= {value.producer() for value in graph.outputs if value in found.values and not found.has_batch_first(value)}
    return {node for node in stuck if node is not None}


_ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def compute_one_row_shape(shape: Sequence[Dim] | None, batch: str) -> list[int] | None:
    """Return a shape for a batch of 1; None where a size is no plain term of the batch.

    >>> compute_one_row_shape([ir.SymbolicDim("5*batch"), 3], "batch")
    [5, 3]
    """
    try:
        return None if shape is None else [_evaluated(size, batch) for size in shape]
    except (KeyError, SyntaxError, ValueError):
        return None


def _evaluated(size: Dim, batch: str) -> int:
    if isinstance(size, int):
        return size
    return _term(ast.parse(re.sub(rf"\b{re.escape(batch)}\b", "1", str(size.value)), mode="eval").body)


def _term(term: ast.expr) -> int:
    match term:
        case ast.Constant(value=int(number)):
            return number
        case ast.BinOp(left, sign, right):
            return int(_ARITHMETIC[type(sign)](_term(left), _term(right)))
    raise ValueError(f"{ast.dump(term)} is no whole number")
