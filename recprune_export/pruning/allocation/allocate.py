"""Allocation of widths under the budgets of tables and of other layers, as a knapsack problem that is solved greedily.

Each group's loss over its width is made convex first, so that removing channels in the order of loss per saved
parameter is optimal up to one step (the continuous knapsack: Dantzig 1957), as long as the parameters saved by a channel
do not depend on the other widths; where they do, between two layers, the price rises as the other widths shrink. So a price
that was computed earlier is a lower bound, and only the lowest ones are computed again (lazy evaluation: Minoux 1978,
"Accelerated greedy algorithms for maximizing submodular set functions").
"""

import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log, prod
from typing import NamedTuple

from recprune_export.channels.groups import Group
from recprune_export.program.program import Program
from recprune_export.pruning.allocation.parameter_counts import ParameterCounter, RemainingParameters
from recprune_export.pruning.importance.ranking import Ranking

WidthRounding = Callable[[str, int, int], int]  # kind, target width, full width -> width


def allocate_widths(
    program: Program,
    counter: ParameterCounter,
    rankings: Mapping[str, Ranking],
    limits: Mapping[str, "ParameterLimit"],
    rounding: WidthRounding,
    *,
    keep_tables: bool = False,
) -> dict[str, int]:
    """Return widths at which the tables meet limits["embedding"] and the other layers meet limits["hidden"].

    If this is impossible, every group concerned has the minimum width, 1. To shrink the other layers, tables may also become narrower,
    since layers read them, unless `keep_tables`. `counter` counts the parameters of `program`.

    Takes O(S + N log G) time and O(S) memory, for S slices of channels, N steps (at most 127 for each group) and G groups
    whose prices do not depend on each other; a step of a group on which k prices depend may add O(k log G).
    """
    all_groups = program.analysis.groups
    exact, approximate = RemainingParameters(counter), ApproximateCounts(program)
    curves = {g.name: compute_convex_envelope(rankings[g.name].losses) for g in all_groups}

    def size(in_tables: bool) -> int:
        sizes = exact.sizes()
        return sizes.tables if in_tables else sizes.rest

    for kind, limit in limits.items():
        in_tables = kind == "embedding"
        groups = [g for g in all_groups if g.kind == kind or not (in_tables or keep_tables)]
        steps = _CheapestSteps(groups, curves, approximate, in_tables, rounding)
        current = size(in_tables)
        while current > limit.target:
            step = steps.pop()
            if step is None:
                break
            order, width = rankings[step.group.name].order, approximate.widths[step.group.name]
            removed = [step.group.channels[position].identity for position in order[step.width : width]]
            exact.remove(removed)
            after = size(in_tables)
            if current <= limit.maximum and not limit.is_closer(after, current):
                exact.restore(removed)
                break
            approximate.set_width(step.group.name, step.width)
            steps.push(step.group)
            current = after
    return dict(approximate.widths)


@dataclass(frozen=True)
class ParameterLimit:
    """Numbers of parameters of the tables, or of the other layers, after pruning: the `target`, and the `maximum` allowed."""

    target: float
    maximum: float

    def is_closer(self, one: float, other: float) -> bool:
        """Return whether `one` is nearer to the target than `other`, by ratio."""
        return abs(log(max(one, 1.0) / max(self.target, 1.0))) < abs(log(max(other, 1.0) / max(self.target, 1.0)))


def compute_convex_envelope(losses: Sequence[float]) -> list[float]:
    """Return the largest convex curve that is nowhere above `losses`.

    >>> compute_convex_envelope([9.0, 8.0, 1.0, 0.0])
    [9.0, 5.0, 1.0, 0.0]
    """
    corners: list[int] = []
    for k in range(len(losses)):
        while len(corners) > 1:
            i, j = corners[-2:]
            if (losses[j] - losses[i]) * (k - j) < (losses[k] - losses[j]) * (j - i):
                break
            corners.pop()
        corners.append(k)
    curve = list(losses)
    for i, j in itertools.pairwise(corners):
        for k in range(i, j + 1):
            curve[k] = losses[i] + (losses[j] - losses[i]) * (k - i) / (j - i)
    return curve


class _Step(NamedTuple):
    """The next smaller width of a group."""

    group: Group
    width: int


class _CheapestSteps:
    """The steps of all groups in the order of their prices, the loss per saved parameter at the current widths."""

    def __init__(
        self,
        groups: Sequence[Group],
        curves: Mapping[str, Sequence[float]],
        approximate: "ApproximateCounts",
        in_tables: bool,
        rounding: WidthRounding,
    ) -> None:
        self._groups, self._curves, self._approximate = groups, curves, approximate
        self._in_tables, self._rounding = in_tables, rounding
        self._numbers = {group.name: number for number, group in enumerate(groups)}
        # Prices, each at most the one at the current widths, with the numbers of the groups; the first of equals is taken.
        self._prices: list[tuple[float, int]] = []
        for group in groups:
            self.push(group)

    def push(self, group: Group) -> None:
        """Add the next step of a group, if it has one that saves parameters."""
        price = self._price(group)
        if price is not None:
            heapq.heappush(self._prices, (price, self._numbers[group.name]))

    def pop(self) -> _Step | None:
        """Remove and return the step of the lowest price; None if no group can shrink."""
        while self._prices:
            _, number = self._prices[0]
            group = self._groups[number]
            price = self._price(group)
            if price is None:
                heapq.heappop(self._prices)
                continue
            heapq.heapreplace(self._prices, (price, number))
            if self._prices[0] == (price, number):
                heapq.heappop(self._prices)
                return _Step(group, self._next_width(group))
        return None

    def _next_width(self, group: Group) -> int:
        max_steps = 64  # a wide group shrinks in larger steps
        step = max(1, group.width // max_steps)
        return self._rounding(group.kind, max(1, self._approximate.widths[group.name] - step), group.width)

    def _price(self, group: Group) -> float | None:
        width, smaller = self._approximate.widths[group.name], self._next_width(group)
        saved = (width - smaller) * self._approximate.parameters_per_channel(group.name, self._in_tables)
        if width <= 1 or saved <= 0:
            return None
        return (self._curves[group.name][smaller] - self._curves[group.name][width]) / saved


class _Indices(NamedTuple):
    """`number` indices of an axis of a parameter, each removed by a channel of any of `groups`."""

    parameter: str
    axis: int
    groups: frozenset[str]
    number: int


class ApproximateCounts:
    """Parameters as a function of the widths alone; exact where every channel of one group meets every channel of another."""

    def __init__(self, program: Program) -> None:
        analysis = program.analysis
        self.widths = {g.name: g.width for g in analysis.groups}
        self._full = dict(self.widths)
        self._tables = analysis.tables
        self._lengths = {name: [float(size) for size in p.shape] for name, p in program.parameters().items()}
        groups_at: dict[tuple[str, int, int], set[str]] = {}
        for group in analysis.groups:
            for channel in group.channels:
                for s in channel.slices:
                    if s.tensor in self._lengths:
                        groups_at.setdefault((s.tensor, s.axis, s.index), set()).add(group.name)
        numbers = Counter((name, axis, frozenset(groups)) for (name, axis, _), groups in groups_at.items())
        self._indices: dict[str, list[_Indices]] = {name: [] for name in self.widths}
        for (name, axis, groups), number in numbers.items():
            for group_name in groups:
                self._indices[group_name].append(_Indices(name, axis, groups, number))

    def set_width(self, group: str, width: int) -> None:
        """Change the width of a group, in time linear in the number of its axes."""
        before = [self._count_remaining(indices) for indices in self._indices[group]]
        self.widths[group] = width
        for number, indices in zip(before, self._indices[group], strict=True):
            self._lengths[indices.parameter][indices.axis] += self._count_remaining(indices) - number

    def parameters_per_channel(self, group: str, in_tables: bool) -> float:
        """Return the number of parameters of one channel of a group in tables, or in other layers, at current widths."""
        return sum(number for name, number in self.count_by_parameter(group) if (name in self._tables) == in_tables)

    def count_by_parameter(self, group: str) -> Iterator[tuple[str, float]]:
        """Yield the parameters that a channel of a group is part of, each with the number of its elements in the channel."""
        for indices in self._indices[group]:
            lengths = self._lengths[indices.parameter]
            others = prod(length for axis, length in enumerate(lengths) if axis != indices.axis)
            yield indices.parameter, self._count_remaining(indices) / self.widths[group] * others

    def shape(self, parameter: str) -> tuple[float, ...]:
        """Return the lengths of a parameter at current widths."""
        return tuple(self._lengths[parameter])

    def _count_remaining(self, indices: _Indices) -> float:
        widths, full = (prod(width[g] for g in indices.groups) for width in (self.widths, self._full))
        return indices.number * widths / full
