"""Time a layer or table in each form, in a separate graph, with the forms interleaved in one process."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.runtime.in_memory import make_in_memory_session
from recprune_export.quantization.apply_quantization import quantize_weights
from recprune_export.quantization.candidates import find_candidates
from recprune_export.quantization.observers import observe
from recprune_export.quantization.quantization_constants import MAX_ROUNDS, MIN_ROUNDS, SECONDS
from recprune_export.quantization.quantization_plan import FP32
from recprune_export.runtime_releases import ANY_RUNTIME, RuntimeTarget
from recprune_export.validation.edge_requests import RequestArrays
from recprune_export.validation.latency.repeated_sessions import typical_time
from recprune_export.validation.latency.request_cycle import RequestCycles
from recprune_export.validation.latency.turns import Backend, measure_interleaved

Times = dict[str, dict[int, float]]  # form -> batch size -> milliseconds


class Stopwatch(Protocol):
    """Measures a graph in fp32, and in each of some forms of one weight or of several."""

    def __call__(
        self, subgraph: ir.Model, name: str | tuple[str, ...], forms: Sequence[str], requests: RequestCycles
    ) -> Times: ...


def extract_subgraph(model: ir.Model, starts: Sequence[ir.Value], ends: Sequence[ir.Value]) -> ir.Model:
    """Return the graph between some values, weights included."""
    graph = ir.convenience.extract(model.graph, starts, ends)
    graph.name = "subgraph"
    return ir.Model(graph, ir_version=model.ir_version)


def measure_times(
    subgraph: ir.Model,
    name: str | tuple[str, ...],
    forms: Sequence[str],
    requests: RequestCycles,
    runtime: RuntimeTarget = ANY_RUNTIME,
) -> Times:
    """Return the milliseconds of `subgraph` in fp32 and with the weights `name` in each of `forms`, by batch size.

    `requests` hold the inputs of the subgraph, by batch size, and are used in turn; layers are calibrated on the first request of the
    largest batch size.
    """
    names, first_request = (name,) if isinstance(name, str) else name, requests[max(requests)][0]
    layers = find_candidates(subgraph).layers
    operands = [layers[layer].operand.name or "" for layer in names if layer in layers]
    calibration_values = {**first_request, **observe(subgraph, operands, [first_request])}
    graphs = {FP32: subgraph} | {
        form: quantize_weights(subgraph, dict.fromkeys(names, form), calibration_values, runtime) for form in forms
    }
    backends = [_make_backend(form, graph) for form, graph in graphs.items()]
    times_by_form: Times = {form: {} for form in graphs}
    rng = np.random.default_rng(0)
    for batch, cycle in requests.items():
        for form, times in measure_interleaved(backends, cycle, SECONDS, rng, MIN_ROUNDS, MAX_ROUNDS).items():
            times_by_form[form][batch] = typical_time(times)
    return times_by_form


def _make_backend(form: str, graph: ir.Model) -> Backend:
    run, names = make_in_memory_session(graph), [value.name or "" for value in graph.graph.inputs]

    def once(request: RequestArrays) -> object:
        return run([request[name] for name in names])

    return Backend(form, once)
