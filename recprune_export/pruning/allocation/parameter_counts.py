"""How many parameters are left in the tables and in the rest when given channels go."""

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
    """Counts the parameters of a program for any set of removed channels."""

    def __init__(self, program: Program) -> None:
        analysis = program.analysis
        self._module, self._analysis = program.module, analysis
        self._fields = frozenset(c.identity for group in analysis.groups for c in group.channels if c.fields)
        self._left_without: dict[frozenset[int], frozenset[str]] = {}
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
        """Return the numbers of parameters that stay."""
        counts: Mapping[bool, list[int]] = {True: [], False: []}
        left = self._left(removed)
        for name, shape in self._shapes.items():
            if name not in left:
                continue
            kept = [self._count_remaining(name, axis, size, removed) for axis, size in enumerate(shape)]
            counts[name in self._tables].append(int(np.prod(kept, dtype=np.int64)))
        return ParameterCounts(tables=sum(counts[True]), rest=sum(counts[False]))

    def _count_remaining(self, name: str, axis: int, size: int, removed: frozenset[int]) -> int:
        at = self._channels_at.get((name, axis), {})
        return size - sum(any(channel in removed for channel in channels) for channels in at.values())

    def _left(self, removed: frozenset[int]) -> frozenset[str]:
        """The parameters that something still uses: not the table of a field that goes, unless others share it."""
        fields = removed & self._fields
        if fields not in self._left_without:
            nodes = find_live_nodes(self._module.graph, lambda node: self._analysis.remaining_operands(node, fields))
            self._left_without[fields] = frozenset(str(node.target) for node in nodes if node.op == "get_attr")
        return self._left_without[fields]
