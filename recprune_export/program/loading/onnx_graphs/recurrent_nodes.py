"""Recurrent layers: their weights in the layout of PyTorch.

ONNX stacks the directions, and orders the gates of a GRU as update, reset, hidden (PyTorch: reset, update, hidden), those of an
LSTM as input, output, forget, cell (PyTorch: input, forget, cell, output).
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from recprune_export.program.loading.onnx_graphs.onnx_graph import STANDARD, Node, OnnxGraph

GATES = {"GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1), "RNN": (0,)}  # the gates of PyTorch by their places in ONNX
# GRULayer, LSTMLayer, RNNLayer: no operators of ONNX. They take x, lengths, first states, and the weights of each direction.
LAYER = "Layer"
_MOVES = {"Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze"}


def find_recurrent_layers(graph: OnnxGraph) -> OnnxGraph:
    """Return the graph with the weights of recurrent layers as PyTorch takes them, each under its name with the direction.

    Before: `GRU(x, W: directions×3H×K, R, B: directions×6H, …)`. After: `GRULayer(x, lengths, h, c, W_0: 3H×K, R_0, …, W_1, …)`.
    """
    weights = dict(graph.initializers)
    producers = graph.find_producers()
    nodes = [
        _convert(_drop_zero_states(node, producers, weights), weights)
        if node.operator in GATES and node.domain == STANDARD
        else node
        for node in graph.nodes
    ]
    return replace(graph, nodes=tuple(nodes), initializers=weights)


def _drop_zero_states(node: Node, producers: Mapping[str, Node], weights: Mapping[str, np.ndarray]) -> Node:
    """Return a layer without first states that are zeros of the size of the batch, which are those of a layer without any."""
    states = {name for name in node.inputs[5:7] if name and _is_zero(name, producers, weights)}
    return replace(node, inputs=tuple("" if name in states else name for name in node.inputs))


def _is_zero(name: str, producers: Mapping[str, Node], weights: Mapping[str, np.ndarray]) -> bool:
    """Return whether a value is zeros that were only moved and repeated."""
    if name in weights:
        return not weights[name].any()
    node = producers.get(name)
    if node is None:
        return False
    if node.operator == "ConstantOfShape":
        value = node.get("value")
        return value is None or not value.any()
    return node.operator in _MOVES and _is_zero(node.inputs[0], producers, weights)


def _convert(node: Node, weights: dict[str, np.ndarray]) -> Node:
    x, w, r, *rest = node.inputs
    bias, lengths, hidden, cell, peepholes = (*rest, "", "", "", "", "")[:5]
    _check_form(node, lengths, peepholes)
    if lengths and (weights[w].shape[0] > 1 or (node.operator == "LSTM" and any(node.outputs[2:]))):
        raise node.refuse("has lengths of rows in two directions, or returns its cell")
    names = [name for name in (w, r, bias) if name]
    if any(name not in weights for name in names):
        raise node.refuse("computes its weights from the request")
    gates = GATES[node.operator]
    inputs = [x, lengths, hidden, cell]
    for direction in range(weights[w].shape[0]):
        for name in names:
            whole = weights[name][direction]
            halves = np.split(whole, 2) if name == bias else [whole]
            for half, part in zip(("", "_recurrent"), halves, strict=False):
                own = f"{name}_{direction}{half}"
                weights[own] = np.concatenate([np.split(part, len(gates))[gate] for gate in gates])
                inputs.append(own)
    return replace(node, operator=node.operator + LAYER, inputs=tuple(inputs))


def _check_form(node: Node, lengths: str, peepholes: str) -> None:
    """Raise `CaptureError` for a form that PyTorch's layers do not have."""
    usual = {"GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"], "RNN": ["Tanh"]}[node.operator]
    given = [name.decode() if isinstance(name, bytes) else name for name in node.get("activations") or []]
    directions = 2 if node.get("direction", "forward") == "bidirectional" else 1
    if given and [name.lower() for name in given] != [name.lower() for name in usual * directions]:
        raise node.refuse(f"has the activations {', '.join(given)}")
    if node.operator == "GRU" and not node.get("linear_before_reset", 0):
        raise node.refuse("resets before the product (linear_before_reset=0), as no GRU of PyTorch does")
    if node.get("direction", "forward") == "reverse":
        raise node.refuse("goes backwards alone")
    if peepholes or node.get("clip") is not None or node.get("input_forget", 0):
        raise node.refuse("has peepholes or bounds")
