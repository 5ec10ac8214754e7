"""Numbers of parameters in the tables and in the rest after channels are removed."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from recprune_export.channels.liveness import find_live_nodes
from recprune_export.program.program import Program


@dataclass(frozen=True)
class ParameterCounts:
    """Parameters in the embedding tables, and in everything else."""

    tables: int
    rest: int


class ParameterCounter:
    """Counter of the parameters of a program for any set of removed channels."""

    def __init__(self, program: Program) -> None:
        analysis = program.analysis
        self._module, self._analysis = program.module, analysis
        self._fields = frozenset(c.identity for group in analysis.groups for c in group.channels if c.fields)
        self._live_without: dict[frozenset[int], frozenset[str]] = {}
        self._shapes = {name: tuple(p.shape) for name, p in program.parameters().items()}
        self._tables = analysis.tables
        self._channels_at: dict[tuple[str, int], dict[int, list[int]]] = {}
        for group in analysis.groups:
            for channel in group.channels:
                for s in channel.slices:
                    self._channels_at.setdefault((s.tensor, s.axis), {}).setdefault(s.index, []).append(
                        channel.identity
                    )

    def sizes(self, removed: frozenset[int] = frozenset()) -> ParameterCounts:
        """Return the numbers of remaining parameters."""
        counts: Mapping[bool, list[int]] = {True: [], False: []}
        live = self._live(removed)
        for name, shape in self._shapes.items():
            if name not in live:
                continue
            lengths = [self._count_remaining(name, axis, size, removed) for axis, size in enumerate(shape)]
            counts[name in self._tables].append(int(np.prod(lengths, dtype=np.int64)))
        return ParameterCounts(tables=sum(counts[True]), rest=sum(counts[False]))

    def _count_remaining(self, name: str, axis: int, size: int, removed: frozenset[int]) -> int:
        at = self._channels_at.get((name, axis), {})
        return size - sum(any(channel in removed for channel in channels) for channels in at.values())

    def _live(self, removed: frozenset[int]) -> frozenset[str]:
        """Return the parameters that a node still reads: not the table of a removed field, unless other fields share it."""
        fields = removed & self._fields
        if fields not in self._live_without:
            nodes = find_live_nodes(self._module.graph, lambda node: self._analysis.remaining_operands(node, fields))
            self._live_without[fields] = frozenset(str(node.target) for node in nodes if node.op == "get_attr")
        return self._live_without[fields]
