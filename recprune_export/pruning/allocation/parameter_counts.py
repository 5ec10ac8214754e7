"""Numbers of parameters in tables and in other layers after channels are removed."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

from recprune_export.channels.groups import Slice
from recprune_export.channels.liveness import find_live_nodes
from recprune_export.program.program import Program


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters in the embedding tables, and all other parameters."""

    tables: int
    rest: int


class ParameterCounter:
    """Counter of the parameters of a program for any set of removed channels.

    Takes time and memory linear in the number of slices of all channels.
    """

    def __init__(self, program: Program) -> None:
        analysis = program.analysis
        self._module, self._analysis = program.module, analysis
        channels = [channel for group in analysis.groups for channel in group.channels]
        self.slices: dict[int, tuple[Slice, ...]] = {channel.identity: channel.slices for channel in channels}
        self.field_channels = frozenset(channel.identity for channel in channels if channel.fields)
        self.shapes = {name: tuple(p.shape) for name, p in program.parameters().items()}
        self.tables = analysis.tables
        self._live_without: dict[frozenset[int], frozenset[str]] = {}

    def sizes(self, removed: frozenset[int] = frozenset()) -> ParameterCounts:
        """Return the numbers of remaining parameters, in time linear in the slices of the removed channels."""
        remaining = RemainingParameters(self)
        remaining.remove(removed)
        return remaining.sizes()

    def live_parameters(self, removed: frozenset[int]) -> frozenset[str]:
        """Return the parameters that a node still reads: not the table of a removed field, unless other fields share it."""
        fields = removed & self.field_channels
        if fields not in self._live_without:
            nodes = find_live_nodes(self._module.graph, lambda node: self._analysis.remaining_operands(node, fields))
            self._live_without[fields] = frozenset(str(node.target) for node in nodes if node.op == "get_attr")
        return self._live_without[fields]


class RemainingParameters:
    """Numbers of parameters that remain while channels are removed and restored one after the other.

    A change takes time linear in the slices of its channels, `sizes` takes constant time; where channels are whole fields,
    `sizes` takes time linear in the number of parameters.
    """

    def __init__(self, counter: ParameterCounter) -> None:
        self._counter = counter
        self._lengths = {name: list(shape) for name, shape in counter.shapes.items()}
        self._removers: dict[tuple[str, int, int], int] = {}  # by tensor, axis and index: its removed channels
        self._removed_fields: set[int] = set()
        self._live = counter.live_parameters(frozenset())
        self._totals = self._sum()

    def remove(self, channels: Iterable[int]) -> None:
        """Remove channels, given by their identities."""
        for channel in channels:
            for removed in self._counter.slices.get(channel, ()):
                self._count(removed, 1)
            if channel in self._counter.field_channels:
                self._removed_fields.add(channel)

    def restore(self, channels: Iterable[int]) -> None:
        """Restore removed channels."""
        for channel in channels:
            for restored in self._counter.slices.get(channel, ()):
                self._count(restored, -1)
            self._removed_fields.discard(channel)

    def sizes(self) -> ParameterCounts:
        """Return the numbers of remaining parameters."""
        live = self._counter.live_parameters(frozenset(self._removed_fields))
        if live != self._live:
            self._live = live
            self._totals = self._sum()
        return ParameterCounts(tables=self._totals[True], rest=self._totals[False])

    def _count(self, changed: Slice, number: int) -> None:
        """Add to the number of removed channels at an index; the index is removed where that is not zero."""
        if changed.tensor not in self._lengths:  # a buffer
            return
        key = (changed.tensor, changed.axis, changed.index)
        before = self._removers.get(key, 0)
        self._removers[key] = before + number
        if bool(before) == bool(before + number):
            return
        lengths = self._lengths[changed.tensor]
        size = prod(lengths)
        lengths[changed.axis] -= number
        if changed.tensor in self._live:
            self._totals[changed.tensor in self._counter.tables] += prod(lengths) - size

    def _sum(self) -> dict[bool, int]:
        totals = {True: 0, False: 0}
        for name in self._live & self._lengths.keys():
            totals[name in self._counter.tables] += prod(self._lengths[name])
        return totals
