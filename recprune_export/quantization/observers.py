"""What values inside a graph hold while it answers requests."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.runtime.in_memory import make_in_memory_session
from recprune_export.validation.edge_requests import RequestArrays

Arrays = dict[str, np.ndarray]


class GraphFunction(Protocol):
    """Arrays in, arrays out."""

    def __call__(self, request: Arrays) -> Mapping[str, np.ndarray]: ...


def observe(model: ir.Model, names: Iterable[str], requests: Sequence[RequestArrays]) -> Arrays:
    """Return by name what values held, those of all requests one after the other on axis 0."""
    copy, wanted = model.clone(), list(dict.fromkeys(names))
    inside = {value.name: value for node in copy.graph for value in node.outputs}
    given = {value.name for value in copy.graph.inputs}
    computed = [name for name in wanted if name in inside]
    copy.graph.outputs[:] = [inside[name] for name in computed]
    answer = make_graph_function(copy) if computed else None
    parts: dict[str, list[np.ndarray]] = {name: [] for name in wanted}
    for request in requests:
        values: Mapping[str, np.ndarray] = {} if answer is None else answer(request)
        for name in wanted:
            parts[name].append(np.asarray(request[name] if name in given else values[name]))
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def make_graph_function(model: ir.Model) -> GraphFunction:
    """Return a function from a request to answers by name, in ONNX Runtime on one thread; weights are not copied."""
    run = make_in_memory_session(model)
    inputs = [value.name or "" for value in model.graph.inputs]
    outputs = [value.name or "" for value in model.graph.outputs]

    def answer(request: Arrays) -> Arrays:
        return dict(zip(outputs, run([request[name] for name in inputs]), strict=True))

    return answer
