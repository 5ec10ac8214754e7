"""The graph of an ONNX file as an `nn.Module`, whose parameters have the names of the file."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from recprune_export.program.loading.onnx_graphs.bag_loops import replace_bag_loops
from recprune_export.program.loading.onnx_graphs.bag_sequences import replace_bag_sequences
from recprune_export.program.loading.onnx_graphs.fold_constants import (
    fold_constants,
    fold_recurrent_weights,
    lift_constants,
)
from recprune_export.program.loading.onnx_graphs.linear_nodes import find_linear_layers, list_constants, list_weights
from recprune_export.program.loading.onnx_graphs.onnx_graph import OnnxGraph
from recprune_export.program.loading.onnx_graphs.recurrent_nodes import find_recurrent_layers
from recprune_export.program.loading.onnx_graphs.run_graph import run_graph
from recprune_export.program.loading.onnx_graphs.untie_vectors import untie_vectors
from recprune_export.program.loading.onnx_graphs.values import Value, as_tensor

_MIN_DISTINCT = 0.5  # of the numbers of a weight; masks and one-hot features repeat few numbers


class OnnxModule(nn.Module):
    """Runs a graph by PyTorch's operators.

    `forward` takes the inputs of the file in order, and returns its outputs in order. Weights are parameters under their names in
    the file; other constants stay in the graph.
    """

    def __init__(self, graph: OnnxGraph) -> None:
        super().__init__()
        graph = fold_recurrent_weights(lift_constants(graph))
        graph = find_recurrent_layers(find_linear_layers(replace_bag_sequences(replace_bag_loops(graph))))
        graph = untie_vectors(graph, find_weights(graph))
        weights = find_weights(graph)
        self.graph = fold_constants(graph, weights)
        read = {*self.graph.outputs, *(name for node in self.graph.nodes for name in node.reads())}
        self._paths = {name: _register(self, name, graph.initializers[name]) for name in sorted(weights & read)}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Run the graph."""
        values: dict[str, Value] = {name: self.get_parameter(path) for name, path in self._paths.items()}
        values |= {spec.name: value for spec, value in zip(self.graph.inputs, inputs, strict=True)}
        return tuple(map(as_tensor, run_graph(self.graph, values)))


def find_weights(graph: OnnxGraph) -> frozenset[str]:
    """Return the names of the initializers that are trained: those of layers and tables, and others of mostly distinct numbers."""
    of_layers, constants = {*list_weights(graph)}, {*list_constants(graph)}
    return frozenset(
        name
        for name, array in graph.initializers.items()
        if name not in constants and _is_weight(array, name in of_layers)
    )


def _is_weight(array: np.ndarray, of_layer: bool) -> bool:
    if array.dtype.kind != "f" or not array.ndim or (array.size < 2 and not of_layer):
        return False
    is_untrained = array.ndim == 1 and bool((array == array[0]).all())  # a gain of ones, a bias of zeros
    return of_layer or is_untrained or len(np.unique(array)) > _MIN_DISTINCT * array.size


def _register(module: nn.Module, name: str, array: np.ndarray) -> str:
    """Register a parameter under the path of its name in the file, or under another one that no module has; return the path."""
    tensor = nn.Parameter(torch.from_numpy(array if array.flags.writeable else array.copy()))
    for path in _list_paths(name):
        *owners, last = path.split(".")
        owner = module
        for part in owners:
            if part and not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part, None) if part else None  # type: ignore[assignment]
            if not isinstance(owner, nn.Module):
                break
        if isinstance(owner, nn.Module) and last and not hasattr(owner, last):
            owner.register_parameter(last, tensor)
            return path
    raise AssertionError(name)


def _list_paths(name: str) -> Iterator[str]:
    yield name
    flat = name.replace(".", "_") or "weight"
    yield flat
    number = 1
    while True:
        yield f"{flat}_{number}"
        number += 1
