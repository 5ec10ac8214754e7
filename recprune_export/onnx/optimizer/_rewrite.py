"""Rewrites that have to prove themselves: each runs on a copy, which is kept where it answers alike and costs no more.

Alike: on every probe each number differs by at most `TOLERANCE` of the largest of its output. Costs no more: by the
estimate of `cost.py` for each batch size that is asked for, where one may cost up to `MAX_SLOWDOWN` more if they cost less on
average; `benchmarks/bench_cost_model.py` holds the estimate against measurements. Measuring each rewrite at export
instead would take minutes, and give another graph at every run.
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
from recprune_export.onnx.runtime.in_memory import OutputArrays, make_in_memory_session

TOLERANCE = 1e-5  # of the largest number of an output
MASK = 1e6  # numbers from here on are compared among themselves
EQUAL = 1e-3  # of an estimate: what differs by less is the same
MOST_TRIALS = 32  # of a pass that chooses its places; of more places some are left out together
MAX_SLOWDOWN = 0.02  # of an estimate, which is surer of a gain over all batch sizes than of less than this at one

Probe = Sequence[np.ndarray]  # one request, in the order of the graph's inputs


class Pass(Protocol):
    """Changes a graph in place, and returns in how many places."""

    __name__: str

    def __call__(self, model: ir.Model) -> int: ...


class SelectivePass:
    """A pass that can leave places as they are: `rewrite` chooses those that cost least for the batch sizes asked for.

    `find` names the places of a graph, `change` changes those that it is given and returns in how many places.
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
        """Return the pass that changes no other places."""

        def some(model: ir.Model) -> int:
            return self._change(model, places)

        some.__name__ = self.__name__
        return some


@dataclass(frozen=True)
class Rewrite(ToDictMixin):
    """What became of one pass.

    `reason` says why it was not kept, and is empty where it was. `error`: the largest difference on the probes, as a
    fraction of the largest number of that output. `before` and `after`: the estimated milliseconds by batch size. `at`
    names the places, where the pass could choose.
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
        """Whether the graph has it."""
        return not self.reason


@dataclass(frozen=True)
class NonzeroLimits:
    """How many of the parameters that are not zero a graph may hold, in tables and in the rest; None: any number."""

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
    """Try one pass after the other; return the model with those that proved themselves, and what became of each.

    Passes that find nothing to do are not mentioned. `model` is left as it is.
    """
    current = _Candidate(model, probes, batches, machine)
    report = []
    for each in passes:
        at: tuple[str, ...] = ()
        if isinstance(each, SelectivePass):
            at = _cheapest(each, current)
        candidate, places = current.apply_pass(each.only(at) if isinstance(each, SelectivePass) else each)
        if not places:
            continue
        result = replace(_compare(each.__name__, places, current, candidate, limits), at=at)
        report.append(result)
        if result.accepted:
            current = candidate
    return current.model, tuple(report)


class _Candidate:
    """A graph, and what it answers and costs, worked out when it is first asked for."""

    def __init__(self, model: ir.Model, probes: Sequence[Probe], batches: Sequence[int], machine: Machine) -> None:
        self.model, self._probes, self._batches, self._machine = model, probes, batches, machine
        self._answers: list[OutputArrays] | None = None
        self._costs: dict[int, float] | None = None

    def apply_pass(self, each: Pass) -> tuple["_Candidate", int]:
        """Return a copy that the pass has changed, and in how many places."""
        copy = self.model.clone()
        places = each(copy)
        if places:
            RemoveUnusedNodesPass()(copy)
            fill_shapes(copy)
        return _Candidate(copy, self._probes, self._batches, self._machine), places

    def answers(self) -> list[OutputArrays]:
        """Run every probe. Raises `ExportError` where ONNX Runtime cannot."""
        if self._answers is None:
            run = make_in_memory_session(self.model)
            self._answers = [run(probe) for probe in self._probes]
        return self._answers

    def costs(self) -> dict[int, float]:
        """Estimate the milliseconds for each batch size."""
        if self._costs is None:
            bare = strip_weights(self.model).model
            estimates = {batch: estimate_cost(bare, batch, self._machine) for batch in self._batches}
            self._costs = {batch: estimate.estimate * 1e3 for batch, estimate in estimates.items()}
        return self._costs


def _cheapest(each: SelectivePass, current: _Candidate) -> tuple[str, ...]:
    """Leave out one place after the other where that is cheaper; all of them, if nothing is cheaper than no change."""
    before = current.costs()

    def price(places: Collection[str]) -> tuple[float, float]:
        """By how much the worst ratio is more than may be, and the mean of all."""
        after = current.apply_pass(each.only(places))[0].costs() if places else before
        ratios = [after[batch] / before[batch] for batch in before]
        return max(_most(ratios), *ratios) - _most(ratios), sum(ratios) / len(ratios)

    every = tuple(each.find(current.model))
    chosen, best = every, price(every)
    together = -(-len(every) // MOST_TRIALS)
    for start in range(0, len(every), max(together, 1)):
        left_out = every[start : start + together]
        fewer = tuple(other for other in chosen if other not in left_out)
        if (cost := price(fewer)) < best:
            chosen, best = fewer, cost
    return chosen or every


def _compare(name: str, places: int, current: _Candidate, candidate: _Candidate, limits: NonzeroLimits) -> Rewrite:
    before, after = current.costs(), candidate.costs()
    if too_many := _beyond(limits, current.model, candidate.model):
        return Rewrite(name, places, too_many, 0.0, before, after)
    ratios = {batch: after[batch] / before[batch] for batch in before}
    worst = max(ratios, key=ratios.__getitem__)
    if ratios[worst] > _most(ratios.values()):
        more = ratios[worst] - 1
        return Rewrite(name, places, f"estimated to be {more:.1%} slower at batch {worst}", 0.0, before, after)
    try:
        error = max(map(largest_relative_difference, current.answers(), candidate.answers()), default=0.0)
    except ExportError as failure:
        return Rewrite(name, places, str(failure), float("nan"), before, after)
    reason = "" if error <= TOLERANCE else f"answers differ by {error:.1e} of the largest"
    return Rewrite(name, places, reason, error, before, after)


def _most(ratios: Collection[float]) -> float:
    """How many times as long as before the worst batch size may take, by the ratios of all."""
    return 1.0 + (MAX_SLOWDOWN if sum(ratios) < len(ratios) else EQUAL)


def _beyond(limits: NonzeroLimits, before: ir.Model, after: ir.Model) -> str:
    """Say which part would hold more non-zeros than it may; a part that already does must not grow."""
    if limits == NO_LIMITS:
        return ""
    had, has = count_weights(before), count_weights(after)
    for part, most in (("tables", limits.tables), ("rest", limits.rest)):
        old, new = getattr(had, part).nonzero, getattr(has, part).nonzero
        if most is not None and new > max(most, old):
            return f"would leave {new:,} non-zeros in the {part}, more than the {most:,} that were asked for"
    return ""


def largest_relative_difference(expected: OutputArrays, actual: OutputArrays) -> float:
    """Return the largest difference of any output, as a fraction of that output's largest number.

    Numbers from `MASK` on, and those below, are each measured by the largest of their own. Infinite where shapes, types,
    whole numbers, or what is not finite differ.
    """
    if len(expected) != len(actual):
        return float("inf")
    return max(map(_difference, expected, actual), default=0.0)


def _difference(wanted: np.ndarray, found: np.ndarray) -> float:
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return float("inf")
    if wanted.dtype.kind != "f":
        return 0.0 if np.array_equal(wanted, found) else float("inf")
    finite = np.isfinite(wanted)
    if not np.array_equal(wanted[~finite], found[~finite], equal_nan=True):
        return float("inf")
    one, other = wanted[finite].astype(np.float64), found[finite].astype(np.float64)
    masks = np.abs(one) >= MASK  # what a model puts in the place of scores, such as -1e9, is no measure of them
    return max(_of_largest(one[part], other[part]) for part in (masks, ~masks))


def _of_largest(one: np.ndarray, other: np.ndarray) -> float:
    largest = np.abs(one).max(initial=0.0)
    difference = np.abs(one - other).max(initial=0.0)
    return float(difference / largest) if largest else float("inf" if difference else 0.0)
