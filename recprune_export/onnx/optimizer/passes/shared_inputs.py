"""What all candidates of a request share, computed once.

A request asks for the scores of many candidates for one user in one context: the user's part of the inputs, and
whatever follows from it alone, is the same in each row.
"""

from collections.abc import Sequence
from itertools import groupby
from math import prod

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import (
    add_initializer,
    copy_value_info,
    get_axis,
    get_dims,
    get_rank,
    replace_node,
    replace_uses,
)
from recprune_export.onnx.optimizer.broadcast_analysis import SharedValues, compute_one_row_shape, find_shared_values
from recprune_export.onnx.optimizer.embedding_lookups import concatenates_rows
from recprune_export.onnx.optimizer.linear_layers import Linear, match_linear, match_view


def share_inputs(model: ir.Model, shared: Sequence[int]) -> int:
    """Let some inputs have one row, which stands for all rows of the others.

    Before: every input has the batch on axis 0, and each row is answered by itself. After: the inputs at the positions
    `shared` have size 1 there, and so has every value that depends on them alone. Where such a value meets one that has
    a row for each candidate, it is broadcast by the operator that reads both, or repeated just before it. A linear layer
    of a Concat of both kinds is two layers, the shared one computed once:
    `Gemm(Concat(u, v), W, b)` becomes `Gemm(v, W_v, Gemm(u, W_u, b))`. The outputs keep their shapes.

    Returns the number of nodes that are computed once.
    """
    graph = model.graph
    inputs = [graph.inputs[position] for position in shared]
    once = find_shared_values(graph, inputs)
    _Split(graph, once, next(value for value in graph.inputs if value not in inputs)).apply()
    graph.sort()
    return len({value.producer() for value in once.values} - {None})


class _Split:
    """Changes every place at which what is computed once meets the rows of the candidates; `many` is one of their inputs."""

    def __init__(self, graph: ir.Graph, once: SharedValues, many: ir.Value) -> None:
        self._graph, self._once, self._many = graph, once, many
        self._repeated: dict[ir.Value, ir.Value] = {}

    def apply(self) -> None:
        """Change the graph; its nodes have to be sorted afterwards."""
        for value in self._once.values:
            value.shape = self._once.shape(value)
        for node in list(self._graph):
            if node.outputs[0] not in self._once.values and any(value in self._once.values for value in node.inputs):
                self._meet(node)
        for position, value in enumerate(self._graph.outputs):
            if value in self._once.values:
                self._graph.outputs[position] = self._in_place_of(value)

    def _meet(self, node: ir.Node) -> None:
        """Change a node that reads values of both kinds."""
        if node.op_type == "Concat":
            for layer in _readers(node.outputs[0]):
                self._split_layer(node, layer)
            if node.outputs[0].uses() or node.outputs[0].is_graph_output():
                self._repeat_together(node)
            return
        if node.op_type == "Shape" and node.attributes.get_int("end", 0) == 1:
            node.replace_input_with(0, self._many)
            return
        for position, value in enumerate(node.inputs):
            if value is not None and value in self._once.values and not self._once.broadcasts(node, value):
                node.replace_input_with(position, self._repeat(value, self._once.shapes[value]))

    def _in_place_of(self, output: ir.Value) -> ir.Value:
        """An output with a row for each candidate, under the name of the one that has one row."""
        repeated = self._repeat(output, self._once.shapes[output])
        repeated.name, output.name = output.name, f"{output.name}_once"
        return repeated

    def _repeat_together(self, join: ir.Node) -> None:
        """Join neighbours that are shared while they are one row, and repeat them as one."""
        axis = get_axis(join, get_rank(join.outputs[0]) or 1)
        operands: list[ir.Value] = []
        new: list[ir.Node] = []
        values = [value for value in join.inputs if value is not None]
        for once, group in groupby(values, lambda value: value in self._once.values):
            run = list(group)
            if not once:
                operands += run
            elif len(run) == 1:
                operands.append(self._repeat(run[0], self._once.shapes[run[0]]))
            else:
                shape = list(self._once.shapes[run[0]] or ())
                shape[axis] = sum(size for value in run if isinstance(size := (get_dims(value) or [0])[axis], int))
                new.append(ir.node("Concat", run, attributes={"axis": axis}))
                joined = new[-1].outputs[0]
                joined.name, joined.type = f"{run[0].name}_joined", run[0].type
                joined.shape = ir.Shape(compute_one_row_shape(shape, self._once.batch) or [])
                operands.append(self._repeat(joined, shape))
        replace_node(self._graph, join, [*new, ir.node("Concat", operands, attributes={"axis": axis})])

    def _repeat(self, value: ir.Value, shape: Sequence[int | ir.SymbolicDim] | None) -> ir.Value:
        """The value with a row for each candidate, when it has this shape."""
        if value not in self._repeated:
            rows = ir.node("Shape", [self._many], attributes={"start": 0, "end": 1})
            new = [rows]
            if (axes := get_rank(value) or 1) > 1:
                ones = add_initializer(self._graph, f"{value.name}_as_it_is", np.ones(axes - 1, dtype=np.int64))
                new.append(ir.node("Concat", [rows.outputs[0], ones], attributes={"axis": 0}))
            new.append(ir.node("Expand", [value, new[-1].outputs[0]]))
            repeated = new[-1].outputs[0]
            repeated.name, repeated.type, repeated.shape = f"{value.name}_repeated", value.type, ir.Shape(shape or [])
            self._graph.insert_before(self._graph[0], new)  # sorted when all is in place
            self._repeated[value] = repeated
        return self._repeated[value]

    def _split_layer(self, join: ir.Node, layer: Linear) -> None:
        """Make two layers of one that reads a join: of what is shared, and of the rest; the second adds up both."""
        flat, axes = get_rank(layer.operand) == 2, get_rank(join.outputs[0]) or 1
        along_last = layer.operand is join.outputs[0] and get_axis(join, axes) == axes - 1
        values = [value for value in join.inputs if value is not None]
        widths = [_row_size(value) if flat else _last_size(value) for value in values]
        if not (concatenates_rows(join) if flat else along_last) or sum(widths) != layer.inputs:
            return
        rows = np.split(np.arange(layer.inputs), np.cumsum(widths)[:-1])
        new: list[ir.Node] = []
        parts = []
        for once in (True, False):
            chosen = [i for i, value in enumerate(values) if (value in self._once.values) is once]
            operands = [self._flat(values[i], widths[i], new) if flat else values[i] for i in chosen]
            if len(operands) > 1:
                new.append(ir.node("Concat", operands, attributes={"axis": 1 if flat else -1}))
                operands = [new[-1].outputs[0]]
            parts.append([operands[0], _weight(self._graph, layer, np.concatenate([rows[i] for i in chosen]))])
        new += (_gemms if flat else _products)(layer, *parts)
        copy_value_info(new[-1], layer.result)
        self._graph.insert_before(layer.shift or layer.node, new)
        replace_uses(layer.result, new[-1].outputs[0])
        for node in (layer.shift, layer.node):
            if node is not None:
                self._graph.remove(node, safe=True)

    def _flat(self, value: ir.Value, width: int, new: list[ir.Node]) -> ir.Value:
        if get_rank(value) == 2:
            return value
        new.append(
            ir.node("Reshape", [value, add_initializer(self._graph, f"{value.name}_flat", np.array([-1, width]))])
        )
        return new[-1].outputs[0]


def _readers(value: ir.Value) -> list[Linear]:
    """The linear layers that read a join, perhaps through views, and whose weights are theirs alone."""
    found = []
    for node, position in list(value.uses()):
        layer = match_linear(node) if position == 0 else None
        view = None if layer is not None else match_view(node, value)
        if layer is not None and layer.owns_weight:
            found.append(layer)
        elif view is not None:
            found += _readers(view)
    return found


def _gemms(layer: Linear, shared: list[ir.Value], own: list[ir.Value]) -> list[ir.Node]:
    """own · W_own + (shared · W_shared + b), for two axes; the second product adds the first to all of its rows."""
    turned = {"transB": int(layer.transposed)}
    once = ir.node("Gemm", [*shared, *_bias(layer)], attributes=turned)
    return [once, ir.node("Gemm", [*own, once.outputs[0]], attributes=turned)]


def _products(layer: Linear, shared: list[ir.Value], own: list[ir.Value]) -> list[ir.Node]:
    """The same for more axes."""
    once = [ir.node("MatMul", shared)]
    if layer.bias is not None:
        once.append(ir.node("Add", [once[0].outputs[0], layer.bias]))
    product = ir.node("MatMul", own)
    return [*once, product, ir.node("Add", [product.outputs[0], once[-1].outputs[0]])]


def _weight(graph: ir.Graph, layer: Linear, rows: np.ndarray) -> ir.Value:
    part = layer.matrix()[rows]
    stored = np.ascontiguousarray(part.T if layer.transposed else part, dtype=np.float32)
    return add_initializer(graph, f"{layer.weight.name}_part", stored)


def _bias(layer: Linear) -> list[ir.Value]:
    return [] if layer.bias is None else [layer.bias]


def _row_size(value: ir.Value) -> int:
    return prod(size for size in (get_dims(value) or [0])[1:] if isinstance(size, int))


def _last_size(value: ir.Value) -> int:
    size = (get_dims(value) or [0])[-1]
    return size if isinstance(size, int) else 0
