"""`analyse`: from a program to its channel groups, and what is frozen with the reason."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, fx

from recprune_export.channels import rules  # noqa: F401  (registers the rules)
from recprune_export.channels.groups import Channel, FrozenAxis, Group, Kind, Slice
from recprune_export.channels.label_sets import LabelSets
from recprune_export.channels.labels import Labels
from recprune_export.channels.walk import Walk
from recprune_export.program.canonical import tensor_at
from recprune_export.program.program import Program, example_tensors

BATCH_OF_THE_WALK = 2

# For each axis, for each index, the channels that remove it; None for an axis that never shrinks.
AxisSets = tuple[tuple[frozenset[int], ...] | None, ...]


@dataclass(frozen=True)
class Analysis:
    """The channel groups of one program, and how each value of its graph shrinks with them.

    `removed_by[node]` holds the sets of channels by axis and index, for a node with several outputs one such for each.
    """

    groups: tuple[Group, ...]
    frozen: tuple[FrozenAxis, ...]
    removed_by: Mapping[str, AxisSets | tuple[AxisSets, ...]]
    tables: frozenset[str]

    def group(self, name: str) -> Group:
        """Return a group by its name; `KeyError` where there is none."""
        return {group.name: group for group in self.groups}[name]


def analyse(program: Program) -> Analysis:
    """Find every channel of `program`.

    Labels are propagated until no pass ties any more; only the last pass decides what is frozen, because ties found
    late can show that a channel is zero when masked after all. Time is linear in the size of the graph for each pass,
    and two or three passes suffice.
    """
    sets = LabelSets()
    tensors = example_tensors(program.signature, BATCH_OF_THE_WALK)
    while True:
        before = sets.merges
        sets.forget_frozen()
        walk = Walk(program.module, sets)
        with torch.no_grad():
            walk.run(*tensors)
        if sets.merges == before:
            return _collect(program.module, walk)


def _collect(module: fx.GraphModule, walk: Walk) -> Analysis:
    sets, frozen = walk.sets, walk.sets.frozen_channels()
    target_of = {node.name: str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    channels = _channels(sets, target_of)
    tables = frozenset(target_of[name] for name in walk.tables)
    live = {identity: slices for identity, slices in channels.items() if identity not in frozen}
    removed_by = {
        node.name: _resolve(sets, described, live)
        for node, described in walk.described.items()
        if described is not None
    }
    return Analysis(
        groups=_groups(module, live, tables),
        frozen=_frozen_axes(module, channels, frozen),
        removed_by=removed_by,
        tables=tables,
    )


def _channels(sets: LabelSets, target_of: Mapping[str, str]) -> dict[int, list[Slice]]:
    """Gather for each channel the slices of tensors that go with it."""
    slices: dict[int, list[Slice]] = defaultdict(list)
    for label in sets.labels():
        name, axis, index = cast(tuple[str, int, int], sets.key(label))
        if name in target_of:
            for channel in sets.channels_of(label):
                slices[channel].append(Slice(target_of[name], axis, index))
    return slices


def _groups(module: fx.GraphModule, live: Mapping[int, list[Slice]], tables: frozenset[str]) -> tuple[Group, ...]:
    """Channels on the same axes form a group; a group without a parameter is nobody's to prune."""
    by_axes: dict[tuple[tuple[str, int], ...], list[Channel]] = defaultdict(list)
    for identity, slices in live.items():
        axes = tuple(dict.fromkeys((s.tensor, s.axis) for s in slices))
        if any(isinstance(tensor_at(module, tensor), torch.nn.Parameter) for tensor, _ in axes):
            by_axes[axes].append(Channel(identity, tuple(slices)))
    groups = []
    names: dict[str, int] = defaultdict(int)
    for axes, channels in by_axes.items():
        kind: Kind = "embedding" if any(tensor in tables and axis == 1 for tensor, axis in axes) else "hidden"
        tensor, axis = next(((t, a) for t, a in axes if t in tables and a == 1), axes[0])
        name = f"{tensor}:{axis}"
        names[name] += 1
        groups.append(Group(name if names[name] == 1 else f"{name}#{names[name]}", kind, tuple(channels)))
    return tuple(groups)


def _frozen_axes(
    module: fx.GraphModule, channels: Mapping[int, list[Slice]], frozen: Mapping[int, object]
) -> tuple[FrozenAxis, ...]:
    counts: dict[tuple[str, int, object], int] = defaultdict(int)
    for identity, reason in frozen.items():
        for tensor, axis in {(s.tensor, s.axis) for s in channels.get(identity, ())}:
            if isinstance(tensor_at(module, tensor), torch.nn.Parameter):
                counts[tensor, axis, reason] += sum(s.tensor == tensor and s.axis == axis for s in channels[identity])
    return tuple(FrozenAxis(tensor, axis, count, reason) for (tensor, axis, reason), count in counts.items())  # type: ignore[arg-type]


def _resolve(
    sets: LabelSets, described: Labels | tuple[Labels | None, ...], live: Mapping[int, object]
) -> AxisSets | tuple[AxisSets, ...]:
    if isinstance(described, tuple):
        parts = (_resolve(sets, part, live) if part is not None else () for part in described)
        return cast(tuple[AxisSets, ...], tuple(parts))

    def channels(axis: Tensor) -> tuple[frozenset[int], ...] | None:
        if not bool(axis.any()):
            return None
        return tuple(frozenset(c for c in sets.members(i) if c in live) for i in axis.tolist())

    return tuple(channels(axis) for axis in described.removes)
