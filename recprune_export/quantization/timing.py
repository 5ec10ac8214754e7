"""How long a layer or a table takes in each form: alone in a graph, the forms taking turns in one process."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.runtime.in_memory import session_in_memory
from recprune_export.quantization.apply_quantization import quantised
from recprune_export.quantization.quantization_plan import PLAIN
from recprune_export.validation.edge_requests import Request
from recprune_export.validation.latency.closed_loop import Contestant, take_turns
from recprune_export.validation.latency.repeated_sessions import typical_time
from recprune_export.validation.latency.request_cycle import Rotations

SECONDS = 0.1  # for each layer and batch size
FEWEST, MOST = 15, 300  # rounds

Times = dict[str, dict[int, float]]  # form -> batch size -> milliseconds


class Stopwatch(Protocol):
    """Measures a graph as it is, and with one weight in each of some forms."""

    def __call__(self, part: ir.Model, name: str, forms: Sequence[str], requests: Rotations) -> Times: ...


def part_of(model: ir.Model, starts: Sequence[ir.Value], ends: Sequence[ir.Value]) -> ir.Model:
    """Return the graph between some values, weights included."""
    graph = ir.convenience.extract(model.graph, starts, ends)
    graph.name = "part"
    return ir.Model(graph, ir_version=model.ir_version)


def take_times(part: ir.Model, name: str, forms: Sequence[str], requests: Rotations) -> Times:
    """Return the milliseconds of the graph `part` in fp32 and with the weight `name` in each of `forms`, by batch size.

    `requests` hold what is given to it, by batch size, and take turns; the first of the largest is what a layer is calibrated
    with.
    """
    seen = requests[max(requests)][0]
    graphs = {PLAIN: part} | {form: quantised(part, {name: form}, seen) for form in forms}
    contestants = [_contestant(form, graph) for form, graph in graphs.items()]
    found: Times = {form: {} for form in graphs}
    rng = np.random.default_rng(0)
    for batch, rotation in requests.items():
        for form, times in take_turns(contestants, rotation, SECONDS, rng, FEWEST, MOST).items():
            found[form][batch] = typical_time(times)
    return found


def _contestant(form: str, graph: ir.Model) -> Contestant:
    run, names = session_in_memory(graph), [value.name or "" for value in graph.graph.inputs]

    def once(request: Request) -> object:
        return run([request[name] for name in names])

    return Contestant(form, once)
