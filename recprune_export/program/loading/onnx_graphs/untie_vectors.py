"""Vectors that several operators read, one for each of them."""

from collections import Counter
from dataclasses import replace

import numpy as np

from recprune_export.program.loading.onnx_graphs.onnx_graph import OnnxGraph


def untie_vectors(graph: OnnxGraph, weights: frozenset[str]) -> OnnxGraph:
    """Return the graph with a copy of a vector among `weights` for each further node that reads it.

    Exporters store equal tensors once. Biases of zeros and gains of ones would tie the widths of all layers that have them, and
    be trained as one. Before: `LayerNormalization(x, ones: D)`, `LayerNormalization(y, ones)`. After: the second reads `ones_1`.
    """
    shared = {
        name
        for name, count in Counter(name for node in graph.nodes for name in {*node.inputs}).items()
        if count > 1 and name in weights and graph.initializers[name].ndim == 1
    }
    inside = {name for node in graph.nodes for name in {*node.reads()} - {*node.inputs}}
    copies: dict[str, np.ndarray] = {}
    taken: Counter[str] = Counter()
    nodes = []
    for node in graph.nodes:
        names = {}
        for name in dict.fromkeys(node.inputs):
            if name in shared - inside - {*graph.outputs}:
                taken[name] += 1
                if taken[name] > 1:
                    names[name] = _make_name(f"{name}_{taken[name] - 1}", graph, copies)
                    copies[names[name]] = graph.initializers[name].copy()
        nodes.append(replace(node, inputs=tuple(names.get(name, name) for name in node.inputs)) if names else node)
    return replace(graph, nodes=tuple(nodes), initializers={**graph.initializers, **copies})


def _make_name(name: str, graph: OnnxGraph, copies: dict[str, np.ndarray]) -> str:
    used = {*graph.initializers, *copies, *(output for node in graph.nodes for output in node.outputs)}
    while name in used:
        name += "_copy"
    return name
