"""Observers: record the values inside a graph while it runs requests."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.runtime.in_memory import make_in_memory_session
from recprune_export.validation.edge_requests import RequestArrays

Arrays = dict[str, np.ndarray]


class GraphFunction(Protocol):
    """A function from the arrays of a request to the arrays of its answer, both by name."""

    def __call__(self, request: Arrays) -> Mapping[str, np.ndarray]: ...


def observe(model: ir.Model, names: Iterable[str], requests: Sequence[RequestArrays]) -> Arrays:
    """Return the arrays of the values `names`, those of all requests concatenated on axis 0."""
    by_request = observe_each(model, names, requests)
    return (
        {name: np.concatenate([arrays[name] for arrays in by_request]) for name in by_request[0]} if by_request else {}
    )


def observe_each(
    model: ir.Model, names: Iterable[str], requests: Sequence[RequestArrays]
) -> list[dict[str, np.ndarray]]:
    """Return the arrays of the values `names` at each request."""
    copy, unique_names = model.clone(), list(dict.fromkeys(names))
    node_outputs = {value.name: value for node in copy.graph for value in node.outputs}
    graph_inputs = {value.name for value in copy.graph.inputs}
    computed = [name for name in unique_names if name in node_outputs]
    copy.graph.outputs[:] = [node_outputs[name] for name in computed]
    answer = make_graph_function(copy) if computed else None
    by_request = []
    for request in requests:
        values: Mapping[str, np.ndarray] = {} if answer is None else answer(request)
        by_request.append(
            {name: np.asarray(request[name] if name in graph_inputs else values[name]) for name in unique_names}
        )
    return by_request


def make_graph_function(model: ir.Model) -> GraphFunction:
    """Return a function that answers requests in ONNX Runtime on one thread; weights are not copied."""
    run = make_in_memory_session(model)
    inputs = [value.name or "" for value in model.graph.inputs]
    outputs = [value.name or "" for value in model.graph.outputs]

    def answer(request: Arrays) -> Arrays:
        return dict(zip(outputs, run([request[name] for name in inputs]), strict=True))

    return answer
