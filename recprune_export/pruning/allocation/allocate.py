"""Allocation of widths under the budgets of tables and rest, as a knapsack problem that is solved greedily.

Each group's loss over its width is made convex first, so that removing channels in the order of loss per saved
parameter is optimal up to one step (the continuous knapsack: Dantzig 1957), as long as the parameters saved by a channel
do not depend on the other widths; where they do, between two layers, they are recomputed at every step.
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

WidthRounding = Callable[[str, int, int], int]  # kind, target width, full width -> width


def allocate_widths(
    program: Program,
    rankings: Mapping[str, Ranking],
    limits: Mapping[str, "ParameterLimit"],
    rounding: WidthRounding,
    *,
    keep_tables: bool = False,
) -> dict[str, int]:
    """Return widths at which the tables meet limits["embedding"] and the rest meets limits["hidden"].

    Where that is impossible, every group concerned has the minimum width, 1. To shrink the rest, tables may become
    narrower as well, since layers read them, unless `keep_tables`.
    """
    near = 1.5  # times the maximum, below which exact sizes are used
    all_groups = program.analysis.groups
    exact, approximate = ParameterCounter(program), _ApproximateCounts(program)
    curves = {g.name: compute_convex_envelope(rankings[g.name].losses) for g in all_groups}
    widths = approximate.widths

    def size(in_tables: bool) -> float:
        removed = {
            group.channels[position].identity
            for group in all_groups
            for position in rankings[group.name].order[widths[group.name] :]
        }
        sizes = exact.sizes(frozenset(removed))
        return sizes.tables if in_tables else sizes.rest

    for kind, limit in limits.items():
        in_tables = kind == "embedding"
        groups = [g for g in all_groups if g.kind == kind or not (in_tables or keep_tables)]
        current = size(in_tables)
        while current > limit.target:
            step = _cheapest(groups, widths, curves, approximate, in_tables, rounding)
            if step is None:
                break
            before, widths[step[0]] = widths[step[0]], step[1]
            # The exact size is slow to compute, and is only needed near the end.
            after = (
                size(in_tables) if approximate.size(in_tables) <= near * limit.maximum else approximate.size(in_tables)
            )
            if current <= limit.maximum and not limit.is_closer(after, current):
                widths[step[0]] = before
                break
            current = after
    return dict(widths)


@dataclass(frozen=True)
class ParameterLimit:
    """Numbers of parameters of the tables, or of the rest, after pruning: the `target`, and the `maximum` allowed."""

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


def _cheapest(
    groups: Sequence[Group],
    widths: Mapping[str, int],
    curves: Mapping[str, Sequence[float]],
    approximate: "_ApproximateCounts",
    in_tables: bool,
    rounding: WidthRounding,
) -> tuple[str, int] | None:
    """Return the group and its next width with the least loss per saved parameter; None where no group can shrink."""
    max_steps = 64  # a wide group shrinks in larger steps
    best: tuple[float, str, int] | None = None
    for group in groups:
        width = widths[group.name]
        step = max(1, group.width // max_steps)
        smaller = rounding(group.kind, max(1, width - step), group.width)
        saved = (width - smaller) * approximate.parameters_per_channel(group.name, in_tables)
        if width <= 1 or saved <= 0:
            continue
        price = (curves[group.name][smaller] - curves[group.name][width]) / saved
        if best is None or price < best[0]:
            best = (price, group.name, smaller)
    return None if best is None else best[1:]


class _ApproximateCounts:
    """Parameters as a function of the widths alone; exact where every channel of one group meets every channel of another."""

    def __init__(self, program: Program) -> None:
        analysis = program.analysis
        self.widths = {g.name: g.width for g in analysis.groups}
        self._full = dict(self.widths)
        at: dict[tuple[str, int], dict[int, set[str]]] = {}
        for group in analysis.groups:
            for channel in group.channels:
                for s in channel.slices:
                    at.setdefault((s.tensor, s.axis), {}).setdefault(s.index, set()).add(group.name)
        # tensor -> for each axis, the number of indices by the groups that remove them
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
        """Return the number of parameters of the tables, or of the rest."""
        return sum(
            prod(self._count_remaining(counter) for counter in counters)
            for name, counters in self._axes.items()
            if (name in self._tables) == in_tables
        )

    def parameters_per_channel(self, group: str, in_tables: bool) -> float:
        """Return the number of parameters that one channel of a group holds in tables, or the rest, at current widths."""
        total = 0.0
        for name in self._parameters_by_group[group]:
            if (name in self._tables) != in_tables:
                continue
            sizes = [self._count_remaining(counter) for counter in self._axes[name]]
            for axis, counter in enumerate(self._axes[name]):
                share = sum(
                    self._count_remaining_indices(groups, n) for groups, n in counter.items() if group in groups
                )
                total += share / self.widths[group] * prod(k for other, k in enumerate(sizes) if other != axis)
        return total

    def _count_remaining(self, counter: Counter[frozenset[str]]) -> float:
        return sum(self._count_remaining_indices(groups, number) for groups, number in counter.items())

    def _count_remaining_indices(self, groups: frozenset[str], number: int) -> float:
        return number * prod(self.widths[g] / self._full[g] for g in groups)
