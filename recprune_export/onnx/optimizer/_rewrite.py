"""Checked rewrites: each runs on a copy, which is accepted if it gives the same outputs and costs no more.

Equal outputs: on every probe each number differs by at most `TOLERANCE` of the largest number of its output. Cost: by the estimate of
`onnx.cost` for each requested batch size. If the average cost falls, one batch size may cost up to `MAX_SLOWDOWN` more, or
`MAX_SLOWDOWN_FRACTION` of the average gain; `benchmarks/bench_cost_model.py` compares estimates with measurements. Measuring each rewrite
at export instead would take minutes, and give another graph at every run.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Protocol

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from recprune_export.codec import JsonForm, ToDictMixin, finite_or_none
from recprune_export.errors import ExportError
from recprune_export.onnx.cost.estimate import estimate_cost
from recprune_export.onnx.cost.machine import REFERENCE, Machine
from recprune_export.onnx.cost.weightless_model import fill_shapes, strip_weights
from recprune_export.onnx.counts import count_weights
from recprune_export.onnx.graph import find_nodes, get_bits
from recprune_export.onnx.optimizer.optimizer_constants import (
    DEQUANTIZING_NODES,
    EQUAL,
    MAX_SLOWDOWN,
    MAX_SLOWDOWN_FRACTION,
    MOST_TRIALS,
)
from recprune_export.onnx.runtime.in_memory import OutputArrays, make_in_memory_session

TOLERANCE = 1e-5  # of the largest number of an output
MASK = 1e6  # larger numbers are mask values, compared among themselves

Probe = Sequence[np.ndarray]  # one request, in the order of the graph's inputs


class Pass(Protocol):
    """Changes a graph in place, and returns the number of changed places."""

    __name__: str

    def __call__(self, model: ir.Model) -> int: ...


class SelectivePass:
    """A pass that can skip places: `rewrite` selects those with the lowest cost for the requested batch sizes.

    `find` lists the names of the places of a graph; `change` changes the given places and returns their number.
    """

    def __init__(
        self, name: str, find: Callable[[ir.Model], Sequence[str]], change: Callable[[ir.Model, Collection[str]], int]
    ) -> None:
        self.__name__, self.__doc__ = name, change.__doc__
        self.find, self._change = find, change

    def __call__(self, model: ir.Model) -> int:
        """Change every place."""
        return self._change(model, self.find(model))

    def only(self, places: Collection[str]) -> Pass:
        """Return the pass restricted to some places."""

        def change_places(model: ir.Model) -> int:
            return self._change(model, places)

        change_places.__name__ = self.__name__
        return change_places


@dataclass(frozen=True)
class Rewrite(ToDictMixin):
    """The outcome of one pass.

    `reason`: the reason for rejection, empty if the pass was accepted. `error`: the largest difference on the probes,
    as a fraction of the largest number of that output. `before` and `after`: the estimated milliseconds by batch size.
    `at`: the names of the places of a selective pass.
    """

    ENCODED = ("name", "places", "reason", "error", "before", "after", "at", "accepted")
    PROPERTY_NAMES: ClassVar[Mapping[str, str]] = {"accepted": "kept"}

    name: str
    places: int
    reason: str
    error: Annotated[float, JsonForm(finite_or_none)]
    before: Mapping[int, float]
    after: Mapping[int, float]
    at: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the rewrite was applied."""
        return not self.reason


@dataclass(frozen=True)
class NonzeroLimits:
    """The largest number of non-zero parameters of a graph, in tables and in other layers; None for no limit."""

    tables: int | None = None
    rest: int | None = None


NO_LIMITS = NonzeroLimits()


def rewrite(
    model: ir.Model,
    passes: Sequence[Pass],
    probes: Sequence[Probe],
    batches: Sequence[int],
    machine: Machine = REFERENCE,
    limits: NonzeroLimits = NO_LIMITS,
) -> tuple[ir.Model, tuple[Rewrite, ...]]:
    """Try one pass after the other; return the model with the accepted ones, and the outcome of each.

    Passes without places to change are not listed. `model` is not changed.
    """
    current = _Candidate(model, probes, batches, machine)
    report = []
    for graph_pass in passes:
        at: tuple[str, ...] = ()
        if isinstance(graph_pass, SelectivePass):
            at = _select_places(graph_pass, current)
        candidate, places = current.apply_pass(
            graph_pass.only(at) if isinstance(graph_pass, SelectivePass) else graph_pass
        )
        if not places:
            continue
        result = replace(_compare(graph_pass.__name__, places, current, candidate, limits), at=at)
        report.append(result)
        if result.accepted:
            current = candidate
    return current.model, tuple(report)


class _Candidate:
    """A graph with its outputs and costs, computed lazily."""

    def __init__(self, model: ir.Model, probes: Sequence[Probe], batches: Sequence[int], machine: Machine) -> None:
        self.model, self._probes, self._batches, self._machine = model, probes, batches, machine
        self._answers: list[OutputArrays] | None = None
        self._costs: dict[int, float] | None = None

    def apply_pass(self, graph_pass: Pass) -> tuple["_Candidate", int]:
        """Return a copy after the pass, and the number of changed places."""
        copy = self.model.clone()
        places = graph_pass(copy)
        if places:
            RemoveUnusedNodesPass()(copy)
            fill_shapes(copy)
        return _Candidate(copy, self._probes, self._batches, self._machine), places

    def answers(self) -> list[OutputArrays]:
        """Return the outputs for all probes. Raises `ExportError` if ONNX Runtime cannot run one."""
        if self._answers is None:
            run = make_in_memory_session(self.model)
            self._answers = [run(probe) for probe in self._probes]
        return self._answers

    def costs(self) -> dict[int, float]:
        """Return the estimated milliseconds for each batch size."""
        if self._costs is None:
            weightless = strip_weights(self.model).model
            estimates = {batch: estimate_cost(weightless, batch, self._machine) for batch in self._batches}
            dequantizing = self._machine.node * _count_dequantizing_nodes(self.model)
            self._costs = {batch: (estimate.estimate + dequantizing) * 1e3 for batch, estimate in estimates.items()}
        return self._costs


def _count_dequantizing_nodes(model: ir.Model) -> int:
    """Return the number of nodes that will dequantize rows of tables with planned bits."""
    lookups = (node.inputs[0] for node in find_nodes(model.graph, "Gather", "GatherND"))
    return sum(DEQUANTIZING_NODES[get_bits(table)] for table in lookups if table is not None)


def _select_places(selective: SelectivePass, current: _Candidate) -> tuple[str, ...]:
    """Skip one place after the other as long as that is cheaper; return all places if no selection is cheaper than the original graph."""
    costs_before = current.costs()

    def compute_cost(places: Collection[str]) -> tuple[float, float]:
        """Return the excess of the worst ratio over the allowed one, and the mean ratio."""
        costs_after = current.apply_pass(selective.only(places))[0].costs() if places else costs_before
        ratios = [costs_after[batch] / costs_before[batch] for batch in costs_before]
        return max(_allowed_ratio(ratios), *ratios) - _allowed_ratio(ratios), sum(ratios) / len(ratios)

    all_places = tuple(selective.find(current.model))
    chosen, lowest_cost = all_places, compute_cost(all_places)
    group_size = -(-len(all_places) // MOST_TRIALS)
    for start in range(0, len(all_places), max(group_size, 1)):
        skipped = all_places[start : start + group_size]
        remaining = tuple(place for place in chosen if place not in skipped)
        if (cost := compute_cost(remaining)) < lowest_cost:
            chosen, lowest_cost = remaining, cost
    return chosen or all_places


def _compare(name: str, places: int, current: _Candidate, candidate: _Candidate, limits: NonzeroLimits) -> Rewrite:
    before, after = current.costs(), candidate.costs()
    if excess := _describe_excess(limits, current.model, candidate.model):
        return Rewrite(name, places, excess, 0.0, before, after)
    ratios = {batch: after[batch] / before[batch] for batch in before}
    worst = max(ratios, key=ratios.__getitem__)
    if ratios[worst] > _allowed_ratio(ratios.values()):
        slowdown = ratios[worst] - 1
        return Rewrite(name, places, f"estimated to be {slowdown:.1%} slower at batch {worst}", 0.0, before, after)
    try:
        error = max(map(largest_relative_difference, current.answers(), candidate.answers()), default=0.0)
    except ExportError as failure:
        return Rewrite(name, places, str(failure), float("nan"), before, after)
    reason = "" if error <= TOLERANCE else f"outputs differ by {error:.1e} of the largest"
    return Rewrite(name, places, reason, error, before, after)


def _allowed_ratio(ratios: Collection[float]) -> float:
    """Return the allowed ratio of costs after and before for the worst batch size, given the ratios of all."""
    gain = 1.0 - sum(ratios) / len(ratios)
    return 1.0 + (max(MAX_SLOWDOWN, MAX_SLOWDOWN_FRACTION * gain) if gain > 0.0 else EQUAL)


def _describe_excess(limits: NonzeroLimits, before: ir.Model, after: ir.Model) -> str:
    """Return a sentence if tables or other layers exceed their limit of non-zeros and have grown; otherwise an empty string."""
    if limits == NO_LIMITS:
        return ""
    counts_before, counts_after = count_weights(before), count_weights(after)
    for kind, limit in (("tables", limits.tables), ("rest", limits.rest)):
        nonzero_before, nonzero_after = getattr(counts_before, kind).nonzero, getattr(counts_after, kind).nonzero
        if limit is not None and nonzero_after > max(limit, nonzero_before):
            return (
                f"would leave {nonzero_after:,} nonzeros in the {kind}, more than the {limit:,} allowed by the sparsity"
            )
    return ""


def largest_relative_difference(expected: OutputArrays, actual: OutputArrays) -> float:
    """Return the largest difference of any output, as a fraction of that output's largest number.

    Numbers from `MASK` on and smaller numbers are each compared with the largest of their kind. Infinite where shapes,
    types, integers, or numbers that are not finite differ.
    """
    if len(expected) != len(actual):
        return float("inf")
    return max(map(_compare_arrays, expected, actual), default=0.0)


def _compare_arrays(expected: np.ndarray, actual: np.ndarray) -> float:
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return float("inf")
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(expected, actual) else float("inf")
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], actual[~finite], equal_nan=True):
        return float("inf")
    expected_values, actual_values = expected[finite].astype(np.float64), actual[finite].astype(np.float64)
    masks = np.abs(expected_values) >= MASK  # mask values such as -1e9 must not set the scale of scores
    return max(_relative_to_largest(expected_values[selected], actual_values[selected]) for selected in (masks, ~masks))


def _relative_to_largest(expected: np.ndarray, actual: np.ndarray) -> float:
    largest = np.abs(expected).max(initial=0.0)
    difference = np.abs(expected - actual).max(initial=0.0)
    return float(difference / largest) if largest else float("inf" if difference else 0.0)
