"""Widths by what each channel costs: the knapsack under the budgets of tables and rest, solved greedily.

Each group's loss over its width is made convex first, so that taking channels in the order of loss for each saved
parameter is optimal up to one step (the continuous knapsack: Dantzig 1957), as long as what a channel saves does not
depend on the other widths; where it does, between two layers, it is looked up anew at every step.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import log, prod

from recprune_export.channels.groups import Group
from recprune_export.program.program import Program
from recprune_export.pruning.allocation.parameter_counts import ParameterCounter
from recprune_export.pruning.importance.ranking import Ranking

WidthRounding = Callable[[str, int, int], int]  # kind, wanted width, full width -> width
NEAR = 1.5  # times the most, from which on sizes are exact
STEPS_PER_GROUP = 64  # a wide group goes in larger steps


def allocate_widths(
    program: Program,
    rankings: Mapping[str, Ranking],
    limits: Mapping[str, "ParameterLimit"],
    rounding: WidthRounding,
    *,
    keep_tables: bool = False,
) -> dict[str, int]:
    """Return widths with which the tables are as large as limits["embedding"] says and the rest as limits["hidden"].

    Where that cannot be, every group concerned has its least width, 1. The rest may narrow tables as well, since layers
    read them, unless `keep_tables`.
    """
    every = program.analysis.groups
    exact, quick = ParameterCounter(program), _ApproximateCounts(program)
    curves = {g.name: compute_convex_envelope(rankings[g.name].losses) for g in every}
    widths = quick.widths

    def size(in_tables: bool) -> float:
        removed = {
            group.channels[position].identity
            for group in every
            for position in rankings[group.name].order[widths[group.name] :]
        }
        sizes = exact.sizes(frozenset(removed))
        return sizes.tables if in_tables else sizes.rest

    for kind, limit in limits.items():
        in_tables = kind == "embedding"
        groups = [g for g in every if g.kind == kind or not (in_tables or keep_tables)]
        now = size(in_tables)
        while now > limit.target:
            step = _cheapest(groups, widths, curves, quick, in_tables, rounding)
            if step is None:
                break
            before, widths[step[0]] = widths[step[0]], step[1]
            # The exact size takes long, and is needed near the end alone.
            after = size(in_tables) if quick.size(in_tables) <= NEAR * limit.maximum else quick.size(in_tables)
            if now <= limit.maximum and not limit.is_closer(after, now):
                widths[step[0]] = before
                break
            now = after
    return dict(widths)


@dataclass(frozen=True)
class ParameterLimit:
    """Parameters of a part after channels are removed: as many as `target`, never more than `maximum`."""

    target: float
    maximum: float

    def is_closer(self, one: float, other: float) -> bool:
        """Tell whether `one` is nearer to what is wanted than `other`, as a ratio."""
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


def _cheapest(
    groups: Sequence[Group],
    widths: Mapping[str, int],
    curves: Mapping[str, Sequence[float]],
    quick: "_ApproximateCounts",
    in_tables: bool,
    rounding: WidthRounding,
) -> tuple[str, int] | None:
    """The group and its next width with the least loss for each saved parameter; None where nothing can go."""
    best: tuple[float, str, int] | None = None
    for group in groups:
        width = widths[group.name]
        step = max(1, group.width // STEPS_PER_GROUP)
        smaller = rounding(group.kind, max(1, width - step), group.width)
        saved = (width - smaller) * quick.parameters_per_channel(group.name, in_tables)
        if width <= 1 or saved <= 0:
            continue
        price = (curves[group.name][smaller] - curves[group.name][width]) / saved
        if best is None or price < best[0]:
            best = (price, group.name, smaller)
    return None if best is None else best[1:]


class _ApproximateCounts:
    """Parameters as a function of the widths alone: right where channels of two groups cross in a full grid."""

    def __init__(self, program: Program) -> None:
        analysis = program.analysis
        self.widths = {g.name: g.width for g in analysis.groups}
        self._full = dict(self.widths)
        at: dict[tuple[str, int], dict[int, set[str]]] = {}
        for group in analysis.groups:
            for channel in group.channels:
                for s in channel.slices:
                    at.setdefault((s.tensor, s.axis), {}).setdefault(s.index, set()).add(group.name)
        # tensor -> for each axis, how many indices go with which groups
        self._axes: dict[str, list[Counter[frozenset[str]]]] = {}
        for name, parameter in program.parameters().items():
            counters = []
            for axis, size in enumerate(parameter.shape):
                with_groups = at.get((name, axis), {})
                counter = Counter(frozenset(groups) for groups in with_groups.values())
                counter[frozenset()] += size - len(with_groups)
                counters.append(counter)
            self._axes[name] = counters
        self._parameters_by_group: dict[str, set[str]] = {name: set() for name in self.widths}
        for name, counters in self._axes.items():
            for group_name in {g for counter in counters for groups in counter for g in groups}:
                self._parameters_by_group[group_name].add(name)
        self._tables = analysis.tables

    def size(self, in_tables: bool) -> float:
        """Return the parameters of the tables, or of the rest."""
        return sum(
            prod(self._count_remaining(counter) for counter in counters)
            for name, counters in self._axes.items()
            if (name in self._tables) == in_tables
        )

    def parameters_per_channel(self, group: str, in_tables: bool) -> float:
        """Return how many parameters of a part one channel of a group holds at the present widths."""
        total = 0.0
        for name in self._parameters_by_group[group]:
            if (name in self._tables) != in_tables:
                continue
            kept = [self._count_remaining(counter) for counter in self._axes[name]]
            for axis, counter in enumerate(self._axes[name]):
                share = sum(
                    self._count_remaining_indices(groups, n) for groups, n in counter.items() if group in groups
                )
                total += share / self.widths[group] * prod(k for other, k in enumerate(kept) if other != axis)
        return total

    def _count_remaining(self, counter: Counter[frozenset[str]]) -> float:
        return sum(self._count_remaining_indices(groups, number) for groups, number in counter.items())

    def _count_remaining_indices(self, groups: frozenset[str], number: int) -> float:
        return number * prod(self.widths[g] / self._full[g] for g in groups)
