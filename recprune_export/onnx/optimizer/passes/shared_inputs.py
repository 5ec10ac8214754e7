"""Values that all candidates of a request share, computed once.

A request contains many candidates to score for one user in one context: the user's inputs, and values that depend only on them, are the
same in each row.
"""

from collections.abc import Sequence
from itertools import groupby
from math import prod

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.graph import (
    add_initializer,
    copy_bits,
    copy_value_info,
    get_axis,
    get_bits,
    get_dims,
    get_rank,
    replace_node,
    replace_uses,
)
from recprune_export.onnx.optimizer.broadcast_analysis import SharedValues, compute_one_row_shape, find_shared_values
from recprune_export.onnx.optimizer.embedding_lookups import concatenates_rows
from recprune_export.onnx.optimizer.linear_layers import Linear, match_linear, match_view


def share_inputs(model: ir.Model, shared: Sequence[int]) -> int:
    """Reduce some inputs to one row, which all rows of a request share.

    Before: every input has the batch on axis 0, or contains the elements of all rows, and the answer for each row is independent of the
    others. After: the inputs at the positions `shared` have size 1 there, and so has every value that depends only on them. Where such a
    value is combined with a row for each candidate, it is broadcast by the operator that reads both, or repeated just before it. A linear
    layer on a Concat of both kinds is split into two layers, the shared one computed once: `Gemm(Concat(u, v), W, b)` becomes `Gemm(v,
    W_v, Gemm(u, W_u, b))`. The outputs keep their shapes.

    Returns the number of nodes that are computed once.
    """
    graph = model.graph
    inputs = [graph.inputs[position] for position in shared]
    shared_values = find_shared_values(graph, inputs)
    rows = (value for value in graph.inputs if value.shape and str(value.shape[0]) == shared_values.batch)
    _SharedGraph(graph, shared_values, next(value for value in rows if value not in inputs)).apply()
    graph.sort()
    return len({value.producer() for value in shared_values.values} - {None})


class _SharedGraph:
    """Changes every node that reads shared values and rows of candidates; `candidates` is an input of the latter."""

    def __init__(self, graph: ir.Graph, shared: SharedValues, candidates: ir.Value) -> None:
        self._graph, self._shared, self._candidates = graph, shared, candidates
        self._repeated: dict[ir.Value, ir.Value] = {}

    def apply(self) -> None:
        """Change the graph; its nodes have to be sorted afterwards."""
        for value in self._shared.values:
            value.shape = self._shared.shape(value)
        for node in list(self._graph):
            if node.outputs[0] not in self._shared.values and any(
                value in self._shared.values for value in node.inputs
            ):
                self._convert_node(node)
        for position, value in enumerate(self._graph.outputs):
            if value in self._shared.values:
                self._graph.outputs[position] = self._repeat_output(value)

    def _convert_node(self, node: ir.Node) -> None:
        """Convert a node that reads values of both kinds."""
        if node.op_type == "Concat":
            for layer in _find_reading_layers(node.outputs[0]):
                self._split_layer(node, layer)
            if node.outputs[0].uses() or node.outputs[0].is_graph_output():
                self._repeat_together(node)
            return
        if node.op_type == "Shape" and node.attributes.get_int("end", 0) == 1:
            node.replace_input_with(0, self._candidates)
            return
        for position, value in enumerate(node.inputs):
            if value is not None and value in self._shared.values and not self._shared.broadcasts(node, value):
                node.replace_input_with(position, self._repeat(value, self._shared.shapes[value]))

    def _repeat_output(self, output: ir.Value) -> ir.Value:
        """Return an output with a row for each candidate, under the name of the output with one row."""
        repeated = self._repeat(output, self._shared.shapes[output])
        repeated.name, output.name = output.name, f"{output.name}_once"
        return repeated

    def _repeat_together(self, concat: ir.Node) -> None:
        """Concatenate shared neighbors while they have one row, and repeat the result."""
        axis = get_axis(concat, get_rank(concat.outputs[0]) or 1)
        operands: list[ir.Value] = []
        new: list[ir.Node] = []
        inputs = [value for value in concat.inputs if value is not None]
        for is_shared, group in groupby(inputs, lambda value: value in self._shared.values):
            neighbors = list(group)
            if not is_shared:
                operands += neighbors
            elif len(neighbors) == 1:
                operands.append(self._repeat(neighbors[0], self._shared.shapes[neighbors[0]]))
            else:
                shape = list(self._shared.shapes[neighbors[0]] or ())
                shape[axis] = sum(
                    size for value in neighbors if isinstance(size := (get_dims(value) or [0])[axis], int)
                )
                new.append(ir.node("Concat", neighbors, attributes={"axis": axis}))
                concatenated = new[-1].outputs[0]
                concatenated.name, concatenated.type = f"{neighbors[0].name}_joined", neighbors[0].type
                concatenated.shape = ir.Shape(compute_one_row_shape(shape, self._shared.batch) or [])
                operands.append(self._repeat(concatenated, shape))
        replace_node(self._graph, concat, [*new, ir.node("Concat", operands, attributes={"axis": axis})])

    def _repeat(self, value: ir.Value, shape: Sequence[int | ir.SymbolicDim] | None) -> ir.Value:
        """Return the value with a row for each candidate, which has the given shape."""
        if value not in self._repeated:
            rows = ir.node("Shape", [self._candidates], attributes={"start": 0, "end": 1})
            new = [rows]
            if (axes := get_rank(value) or 1) > 1:
                ones = add_initializer(self._graph, f"{value.name}_as_it_is", np.ones(axes - 1, dtype=np.int64))
                new.append(ir.node("Concat", [rows.outputs[0], ones], attributes={"axis": 0}))
            new.append(ir.node("Expand", [value, new[-1].outputs[0]]))
            repeated = new[-1].outputs[0]
            repeated.name, repeated.type, repeated.shape = f"{value.name}_repeated", value.type, ir.Shape(shape or [])
            self._graph.insert_before(self._graph[0], new)  # nodes are sorted when all are inserted
            self._repeated[value] = repeated
        return self._repeated[value]

    def _split_layer(self, concat: ir.Node, layer: Linear) -> None:
        """Split a layer that reads a Concat into one on shared values and one on the others, which adds both."""
        has_two_axes, axes = get_rank(layer.operand) == 2, get_rank(concat.outputs[0]) or 1
        along_last = layer.operand is concat.outputs[0] and get_axis(concat, axes) == axes - 1
        values = [value for value in concat.inputs if value is not None]
        widths = [_count_row_elements(value) if has_two_axes else _get_last_size(value) for value in values]
        if not (concatenates_rows(concat) if has_two_axes else along_last) or sum(widths) != layer.inputs:
            return
        rows = np.split(np.arange(layer.inputs), np.cumsum(widths)[:-1])
        # A Gemm that adds a computed value is no layer that could be quantized.
        use_gemms = has_two_axes and get_bits(layer.weight) == 32
        new: list[ir.Node] = []
        factors = []
        for is_shared in (True, False):
            positions = [i for i, value in enumerate(values) if (value in self._shared.values) is is_shared]
            operands = [self._flatten(values[i], widths[i], new) if has_two_axes else values[i] for i in positions]
            if len(operands) > 1:
                new.append(ir.node("Concat", operands, attributes={"axis": 1 if has_two_axes else -1}))
                operands = [new[-1].outputs[0]]
            factors.append(
                [
                    operands[0],
                    _take_weight_rows(
                        self._graph,
                        layer,
                        np.concatenate([rows[i] for i in positions]),
                        transposed=use_gemms and layer.transposed,
                    ),
                ]
            )
        new += (_make_gemms if use_gemms else _make_matmuls)(layer, *factors)
        copy_value_info(new[-1], layer.result)
        self._graph.insert_before(layer.shift or layer.node, new)
        replace_uses(layer.result, new[-1].outputs[0])
        for node in (layer.shift, layer.node):
            if node is not None:
                self._graph.remove(node, safe=True)

    def _flatten(self, value: ir.Value, width: int, new: list[ir.Node]) -> ir.Value:
        if get_rank(value) == 2:
            return value
        new.append(
            ir.node("Reshape", [value, add_initializer(self._graph, f"{value.name}_flat", np.array([-1, width]))])
        )
        return new[-1].outputs[0]


def _find_reading_layers(value: ir.Value) -> list[Linear]:
    """Return the linear layers that read a Concat, perhaps through views, and whose weights have no other consumer."""
    layers = []
    for node, position in list(value.uses()):
        layer = match_linear(node) if position == 0 else None
        view = None if layer is not None else match_view(node, value)
        if layer is not None and layer.owns_weight:
            layers.append(layer)
        elif view is not None:
            layers += _find_reading_layers(view)
    return layers


def _make_gemms(layer: Linear, shared_factors: list[ir.Value], candidate_factors: list[ir.Value]) -> list[ir.Node]:
    """Return candidates · W_c + (shared · W_s + b), for two axes; the second product adds the first to all its rows."""
    attributes = {"transB": int(layer.transposed)}
    shared_product = ir.node("Gemm", [*shared_factors, *_list_bias(layer)], attributes=attributes)
    return [shared_product, ir.node("Gemm", [*candidate_factors, shared_product.outputs[0]], attributes=attributes)]


def _make_matmuls(layer: Linear, shared_factors: list[ir.Value], candidate_factors: list[ir.Value]) -> list[ir.Node]:
    """Return the same sums for more than two axes, or for weights with planned bits."""
    shared_nodes = [ir.node("MatMul", shared_factors)]
    if layer.bias is not None:
        shared_nodes.append(ir.node("Add", [shared_nodes[0].outputs[0], layer.bias]))
    product = ir.node("MatMul", candidate_factors)
    return [*shared_nodes, product, ir.node("Add", [product.outputs[0], shared_nodes[-1].outputs[0]])]


def _take_weight_rows(graph: ir.Graph, layer: Linear, rows: np.ndarray, *, transposed: bool) -> ir.Value:
    matrix = layer.matrix()[rows]
    stored = np.ascontiguousarray(matrix.T if transposed else matrix, dtype=np.float32)
    return copy_bits(layer.weight, add_initializer(graph, f"{layer.weight.name}_part", stored))


def _list_bias(layer: Linear) -> list[ir.Value]:
    return [] if layer.bias is None else [layer.bias]


def _count_row_elements(value: ir.Value) -> int:
    return prod(size for size in (get_dims(value) or [0])[1:] if isinstance(size, int))


def _get_last_size(value: ir.Value) -> int:
    size = (get_dims(value) or [0])[-1]
    return size if isinstance(size, int) else 0
