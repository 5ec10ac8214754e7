"""Linear layers of a graph, found in the forms in which exporters write them.

PyTorch stores the weight of a layer as outputs×inputs; `MatMul` and most exporters as inputs×outputs. Least squares, rotations
and projections read layers, so a weight that nothing but layers reads is turned here, and keeps its name.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from recprune_export.program.loading.onnx_graphs.onnx_graph import STANDARD, Node, OnnxGraph

LINEAR = "Linear"  # no operator of ONNX: x·Wᵀ + b, or x·W + b where `transposed`


def find_linear_layers(graph: OnnxGraph) -> OnnxGraph:
    """Return the graph with `Linear` in the place of `MatMul` and `Gemm` by a matrix of weights, and of a sum with a bias.

    Before: `Add(MatMul(x, W: K×M), b: M)`, `Gemm(x, W, b)`, or `MatMul(x, Transpose(E: M×K))`. After: `Linear(x, W: M×K, b)`.
    A weight that other operators read as well keeps its layout, and the layer turns it. The weight of a layer that has the numbers
    of a table is that table: exporters write the transposed table of a tied layer as a copy.
    """
    finder = _Finder(graph)
    nodes = finder.add_biases([finder.find(node) for node in graph.nodes])
    nodes, initializers = _turn_weights(nodes, graph.initializers)
    return _tie_to_tables(replace(graph, nodes=tuple(nodes), initializers=initializers))


class _Finder:
    def __init__(self, graph: OnnxGraph) -> None:
        self._producers = graph.find_producers()
        self._readers = Counter([*graph.outputs, *(name for node in graph.nodes for name in node.reads())])
        self._weights = graph.initializers

    def find(self, node: Node) -> Node:
        """Return the layer of a product with a matrix of weights, and any other node as it is."""
        if node.domain != STANDARD:
            return node
        if node.operator == "MatMul":
            return self._make(node, node.inputs[0], node.inputs[1], transposed=True)
        plain = (
            node.operator == "Gemm"
            and not node.get("transA", 0)
            and node.get("alpha", 1.0) == node.get("beta", 1.0) == 1.0
        )
        bias = node.inputs[2] if plain and len(node.inputs) > 2 else ""
        if not plain or (bias and not self._is_vector(bias)):
            return node
        return self._make(node, node.inputs[0], node.inputs[1], transposed=not node.get("transB", 0), bias=bias)

    def _make(self, node: Node, value: str, weight: str, *, transposed: bool, bias: str = "") -> Node:
        source = self._producers.get(weight)
        if source is not None and source.operator == "Transpose" and self._is_matrix(source.inputs[0]):
            weight, transposed = source.inputs[0], not transposed
        if not self._is_matrix(weight) or self._is_matrix(value):
            return node
        inputs = (value, weight, bias) if bias else (value, weight)
        return replace(node, operator=LINEAR, inputs=inputs, attributes={"transposed": transposed})

    def add_biases(self, nodes: list[Node]) -> list[Node]:
        """Return the nodes with a sum of a layer and a vector as the layer's bias."""
        layers = {node.outputs[0]: node for node in nodes if node.operator == LINEAR and len(node.inputs) == 2}
        merged: dict[str, Node] = {}
        dropped = set()
        for node in nodes:
            for value, bias in (
                (node.inputs, node.inputs[::-1]) if node.operator == "Add" and node.domain == STANDARD else ()
            ):
                layer = layers.get(value)
                if layer is not None and self._readers[value] == 1 and self._is_bias(layer, bias):
                    merged[node.outputs[0]] = replace(layer, inputs=(*layer.inputs, bias), outputs=node.outputs)
                    dropped.add(value)
                    break
        return [merged.get(node.outputs[0], node) for node in nodes if node.outputs[0] not in dropped]

    def _is_bias(self, layer: Node, name: str) -> bool:
        weight = self._weights[layer.inputs[1]]
        return self._is_vector(name) and self._weights[name].shape[0] == weight.shape[bool(layer.get("transposed"))]

    def _is_matrix(self, name: str) -> bool:
        return name in self._weights and self._weights[name].ndim == 2 and self._weights[name].dtype.kind == "f"

    def _is_vector(self, name: str) -> bool:
        return name in self._weights and self._weights[name].ndim == 1


def _turn_weights(nodes: list[Node], weights: Mapping[str, np.ndarray]) -> tuple[list[Node], dict[str, np.ndarray]]:
    """Turn the weights that layers alone read, all of them as inputs×outputs."""
    reads = Counter(name for node in nodes for name in node.reads())
    turned = Counter(node.inputs[1] for node in nodes if _is_turned(node))
    own = {name for name, count in turned.items() if reads[name] == count}
    changed = [
        replace(node, attributes={"transposed": False}) if _is_turned(node) and node.inputs[1] in own else node
        for node in nodes
    ]
    return changed, {name: np.ascontiguousarray(w.T) if name in own else w for name, w in weights.items()}


def _tie_to_tables(graph: OnnxGraph) -> OnnxGraph:
    """Give each layer whose weight equals a table the table itself."""
    weights = graph.initializers
    tables = {node.inputs[0] for node in graph.nodes if node.operator == "Gather" and node.inputs[0] in weights}
    layers = {node.inputs[1] for node in graph.nodes if node.operator == LINEAR and not _is_turned(node)} - tables
    tied = {
        layer: table
        for layer in layers
        for table in tables
        if weights[layer].shape == weights[table].shape and np.array_equal(weights[layer], weights[table])
    }
    nodes = [
        replace(node, inputs=(node.inputs[0], tied[node.inputs[1]], *node.inputs[2:]))
        if node.operator == LINEAR and node.inputs[1] in tied
        else node
        for node in graph.nodes
    ]
    return replace(graph, nodes=tuple(nodes))


def _is_turned(node: Node) -> bool:
    return node.operator == LINEAR and bool(node.get("transposed"))


def list_constants(graph: OnnxGraph) -> Iterator[str]:
    """Yield the names of the initializers that are never trained, by their place among the inputs: bounds and statistics."""
    places = {
        "BatchNormalization": (3, 4), "OneHot": (1, 2), "Clip": (1, 2), "Pad": (1, 2, 3), "Range": (0, 1, 2), "Pow": (1,),
    }  # fmt: skip
    yield from _read_places(graph, places)


def list_weights(graph: OnnxGraph) -> Iterator[str]:
    """Yield the names of the initializers that operators take as weights, by their place among the inputs."""
    places: dict[str, Sequence[int]] = {
        LINEAR: (1, 2), "Gather": (0,), "GatherND": (0,), "Gemm": (1, 2), "MatMul": (0, 1), "Conv": (1, 2), "BatchNormalization": (1, 2),
        "LayerNormalization": (1, 2), "RMSNormalization": (1,), "GroupNormalization": (1, 2), "InstanceNormalization": (1, 2),
        "PRelu": (1,), "EmbeddingBag": (0,), "GRULayer": range(4, 12), "LSTMLayer": range(4, 12), "RNNLayer": range(4, 12),
        "SkipLayerNormalization": (2, 3, 4), "Einsum": (0, 1),
    }  # fmt: skip
    yield from _read_places(graph, places)


def _read_places(graph: OnnxGraph, places: Mapping[str, Sequence[int]]) -> Iterator[str]:
    for node in graph.nodes:
        yield from (node.inputs[place] for place in places.get(node.operator, ()) if place < len(node.inputs))
