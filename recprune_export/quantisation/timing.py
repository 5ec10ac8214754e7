"""How many times faster a layer or a table is in another form: alone in a graph, the forms taking turns in one process."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from recprune_export.onnx.in_memory import session_in_memory
from recprune_export.quantisation.apply import quantised
from recprune_export.quantisation.observe import Arrays
from recprune_export.quantisation.plan import PLAIN
from recprune_export.validation.latency import Contestant, take_turns
from recprune_export.validation.requests import Request
from recprune_export.validation.seatings import typical_time

SECONDS = 0.1  # for each layer and batch size
FEWEST, MOST = 15, 300  # rounds

Speedups = dict[str, dict[int, float]]  # form -> batch size -> times faster than fp32


class Stopwatch(Protocol):
    """Measures the forms of one weight, of a graph that holds it and little else."""

    def __call__(self, part: ir.Model, name: str, forms: Sequence[str], requests: Mapping[int, Arrays]) -> Speedups: ...


def part_of(model: ir.Model, start: ir.Value, end: ir.Value) -> ir.Model:
    """Return the graph between two values, weights included."""
    graph = ir.convenience.extract(model.graph, [start], [end])
    graph.name = "part"
    return ir.Model(graph, ir_version=model.ir_version)


def take_times(part: ir.Model, name: str, forms: Sequence[str], requests: Mapping[int, Arrays]) -> Speedups:
    """Return how many times faster the graph `part` is with the weight `name` in each of `forms`, by batch size.

    `requests` hold what is given to it, by batch size; the rows of the largest are those a layer is calibrated with.
    """
    seen = requests[max(requests)]
    graphs = {PLAIN: part} | {form: quantised(part, {name: form}, seen) for form in forms}
    contestants = [_contestant(form, graph) for form, graph in graphs.items()]
    found: Speedups = {form: {} for form in forms}
    rng = np.random.default_rng(0)
    for batch, request in requests.items():
        times = take_turns(contestants, request, SECONDS, rng, FEWEST, MOST)
        for form in forms:
            found[form][batch] = typical_time(times[PLAIN]) / typical_time(times[form])
    return found


def _contestant(form: str, graph: ir.Model) -> Contestant:
    run, (given,) = session_in_memory(graph), graph.graph.inputs

    def once(request: Request) -> object:
        return run([request[given.name or ""]])

    return Contestant(form, once)
