"""The example request with which the graph of an ONNX file is captured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recprune_export.data.npz import MAX_EXAMPLE_BYTES, read_npz
from recprune_export.errors import CaptureError, DataError
from recprune_export.program.loading.onnx_graphs.bag_loops import EMBEDDING_BAG
from recprune_export.program.loading.onnx_graphs.onnx_graph import GraphInput, OnnxGraph

_ROWS = 5  # of a request that is made here
_BAG_IDS = 2  # of each of its bags
_MOVES = {"Cast", "Concat", "Identity", "Reshape", "Squeeze", "Unsqueeze"}


def find_fixed_rows(inputs: Sequence[GraphInput]) -> int | None:
    """Return the number of rows that a file takes; None for any number."""
    sizes = [spec.shape[0] for spec in inputs if spec.shape]
    numbers = [size for size in sizes if isinstance(size, int)]
    return max(numbers, key=numbers.count) if len(numbers) == len(sizes) and numbers else None


def find_shared_inputs(inputs: Sequence[GraphInput]) -> list[str]:
    """Return the inputs of which a file takes one row for all rows of the others, such as the user of many candidates."""
    if not any(isinstance(size, str) for spec in inputs for size in spec.shape[:1]):
        return []
    return [spec.name for spec in inputs if spec.shape[:1] == (1,)]


def make_example(path: Path, graph: OnnxGraph) -> tuple[Tensor, ...]:
    """Return a request of ones, which are valid ids and lengths; offsets of bags delimit bags of two ids.

    Raises `CaptureError` where more than the batch varies.
    """
    bags, shared = list(_find_bag_inputs(graph)), find_shared_inputs(graph.inputs)
    elements = {spec.shape[0] for spec in graph.inputs for bag in bags if spec.name in bag.elements} - {""}
    varying = next((spec for spec in graph.inputs if any(isinstance(size, str) for size in spec.shape[1:])), None)
    if varying is not None:
        raise CaptureError(
            f"{path.name}: '{varying.name}' has a size beside the batch that the file does not state: give an example request with "
            "--inputs sample.npz."
        )

    def make(spec: GraphInput) -> Tensor:
        offsets = next((bag for bag in bags if bag.offsets == spec.name), None)
        if offsets is not None:
            return _BAG_IDS * torch.arange(_ROWS + offsets.last_included, dtype=_torch_dtype(spec))
        shape = (_ROWS, *spec.shape[1:]) if spec.name in shared else spec.shape
        of_elements = any(spec.name in bag.elements for bag in bags) or spec.shape[:1] in {(name,) for name in elements}
        rows = _BAG_IDS * _ROWS if of_elements else _ROWS
        return torch.ones([rows if isinstance(size, str) else size for size in shape], dtype=_torch_dtype(spec))

    return tuple(map(make, graph.inputs))


@dataclass(frozen=True)
class _BagInputs:
    """Inputs of a file with an element for each id of a bag, and that of the offsets."""

    elements: frozenset[str]
    offsets: str
    last_included: bool


def _find_bag_inputs(graph: OnnxGraph) -> Iterator[_BagInputs]:
    """Yield the inputs of each `EmbeddingBag` whose ids and offsets the file takes as vectors of free size."""
    vectors = {spec.name for spec in graph.inputs if len(spec.shape) == 1 and isinstance(spec.shape[0], str)}
    producers = graph.find_producers()

    def trace(name: str) -> tuple[str, bool]:
        """Return the value from which `name` is moved, and whether it has a number behind it."""
        extended = False
        while (node := producers.get(name)) is not None and node.operator in _MOVES:
            extended = extended or node.operator == "Concat"
            name = node.inputs[0]
        return name, extended

    for node in graph.nodes:
        if node.operator == EMBEDDING_BAG:
            offsets, extended = trace(node.inputs[2])
            elements = frozenset(trace(name)[0] for name in (node.inputs[1], *node.inputs[3:]))
            if elements & vectors and offsets in vectors:
                yield _BagInputs(elements & vectors, offsets, not extended)


def read_example(path: Path, graph: OnnxGraph, inputs: Path) -> tuple[Tensor, ...]:
    """Return the request of an `.npz`, whose arrays have the names of the inputs, or arg0, arg1, ….

    Raises `DataError` where one is missing or has another shape.
    """
    arrays = read_npz(inputs, MAX_EXAMPLE_BYTES)
    names = [spec.name for spec in graph.inputs]
    if set(arrays) == {f"arg{number}" for number in range(len(names))}:
        arrays = {name: arrays[f"arg{number}"] for number, name in enumerate(names)}
    missing = next((name for name in names if name not in arrays), None)
    if missing is not None:
        raise DataError(
            f"{inputs} holds {sorted(arrays)}, but {path.name} takes {names}: name the arrays after the inputs."
        )
    for spec in graph.inputs:
        given = arrays[spec.name].shape
        if len(given) != len(spec.shape) or any(
            isinstance(n, int) and n != m for n, m in zip(spec.shape, given, strict=True)
        ):
            stated = " × ".join(str(size) or "?" for size in spec.shape)
            raise DataError(f"{inputs}: '{spec.name}' has the shape {given}, but {path.name} takes {stated}.")
    return tuple(torch.from_numpy(np.ascontiguousarray(arrays[s.name]).astype(s.dtype)) for s in graph.inputs)


def _torch_dtype(spec: GraphInput) -> torch.dtype:
    return torch.from_numpy(np.zeros(1, dtype=spec.dtype)).dtype


def describe_fixed_sizes(graph: OnnxGraph, example: Sequence[Tensor]) -> Iterator[str]:
    """Say which sizes that vary in the file are those of the example request from now on."""
    for spec, tensor in zip(graph.inputs, example, strict=True):
        for axis, size in enumerate(spec.shape[1:], start=1):
            if isinstance(size, str):
                yield f"Axis {axis} of '{spec.name}' varies in the file; it is {tensor.shape[axis]} from now on, as in the example request."
