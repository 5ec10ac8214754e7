"""What a graph computes from constants alone, computed once when the file is read."""

from collections.abc import Set
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recprune_export.program.loading.onnx_graphs.onnx_graph import Node, OnnxGraph
from recprune_export.program.loading.onnx_graphs.recurrent_nodes import GATES
from recprune_export.program.loading.onnx_graphs.run_graph import run_node


def lift_constants(graph: OnnxGraph) -> OnnxGraph:
    """Return the graph with the arrays of its Constant nodes among the initializers, and without other names for them.

    Exporters store equal weights once, and write an Identity for each further name.
    """
    weights = dict(graph.initializers)
    names: dict[str, str] = {}
    kept = []
    inside = {name for node in graph.nodes for name in {*node.reads()} - {*node.inputs}}
    for node in graph.nodes:
        value = node.get("value")
        if node.operator == "Constant" and isinstance(value, np.ndarray):
            weights[node.outputs[0]] = value
        elif node.operator == "Identity" and node.inputs[0] in weights and node.outputs[0] not in graph.outputs:
            names[node.outputs[0]] = names.get(node.inputs[0], node.inputs[0])
            weights[node.outputs[0]] = weights[node.inputs[0]]
        else:
            kept.append(replace(node, inputs=tuple(names.get(name, name) for name in node.inputs)))
    weights = {name: array for name, array in weights.items() if name not in names or name in inside}
    return replace(graph, nodes=tuple(kept), initializers=weights)


def fold_recurrent_weights(graph: OnnxGraph) -> OnnxGraph:
    """Return the graph with the weights of recurrent layers as initializers, where it joins them from those of the model."""
    producers = graph.find_producers()
    wanted = [name for node in graph.nodes if node.operator in GATES for name in node.inputs[1:4] if name]
    needed: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in producers and name not in needed:
            needed.add(name)
            wanted += producers[name].reads()
    return _fold(graph, graph.initializers.keys(), needed)


def fold_constants(graph: OnnxGraph, weights: Set[str]) -> OnnxGraph:
    """Return the graph without the nodes that read constants alone; `weights` are no constants."""
    return _fold(graph, graph.initializers.keys() - weights, None)


def _fold(graph: OnnxGraph, constants: Set[str], needed: Set[str] | None) -> OnnxGraph:
    """Compute the nodes that read `constants` alone, all of them or those of which an output is `needed`."""
    values = {name: graph.initializers[name] for name in constants}
    kept = []
    for node in graph.nodes:
        computed = (needed is None or needed & {*node.outputs}) and all(name in values for name in node.reads())
        if computed:
            values.update(_compute(node, values))
        else:
            kept.append(node)
    return replace(graph, nodes=tuple(kept), initializers={**graph.initializers, **values})


def _compute(node: Node, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        results = run_node(node, values)
    return {
        name: result.numpy() if isinstance(result, Tensor) else result
        for name, result in zip(node.outputs, results, strict=False)
        if name and result is not None
    }
