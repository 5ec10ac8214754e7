"""`analyze`: from a program to its channel groups, and what is frozen with the reason."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, fx

from recprune_export.channels import rules  # noqa: F401  (registers the rules)
from recprune_export.channels.dependency_sets import DependencySets, Reason
from recprune_export.channels.fields import Field, Fields, find_fields
from recprune_export.channels.groups import FIELD_GROUP, Channel, FrozenAxis, FrozenField, Group, GroupKind, Slice
from recprune_export.channels.liveness import freeze_needed_fields
from recprune_export.channels.rules.data_movement import CONCATENATIONS, operand_indices
from recprune_export.channels.tags import TensorTags
from recprune_export.channels.walk import FIELD_KEY, NodeTags, TiedAxis, Walk
from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import argument, arguments
from recprune_export.program.program import Program, sample_request_tensors

WALK_BATCH_SIZE = 2
MOST_LAYOUTS = 4  # analyses of one program

# For each axis, for each index, the channels that remove it; None for an axis that never shrinks.
AxisChannels = tuple[tuple[frozenset[int], ...] | None, ...]


@dataclass(frozen=True)
class Analysis:
    """The channel groups of one program, and how each value of its graph shrinks with them.

    `removed_by[node]` holds the sets of channels by axis and index, for a node with several outputs one such for each.
    `gone_with[node]` are the channels with which all of a value goes, for several outputs of each. `fields` is None where
    they were not asked for.
    """

    groups: tuple[Group, ...]
    frozen: tuple[FrozenAxis, ...]
    removed_by: Mapping[str, AxisChannels | tuple[AxisChannels, ...]]
    tables: frozenset[str]
    removed_entirely_by: Mapping[str, frozenset[int] | tuple[frozenset[int], ...]]
    fields: Fields | None = None
    frozen_fields: tuple[FrozenField, ...] = ()

    def is_removed(self, node: fx.Node, removed: frozenset[int], output: int | None = None) -> bool:
        """Tell whether all of a node's value goes when channels are removed; of several outputs, one or all of them."""
        channels = self.removed_entirely_by.get(node.name, frozenset())
        if isinstance(channels, frozenset):
            return bool(channels & removed)
        return all(bool(of_one & removed) for of_one in (channels if output is None else [channels[output]]))

    def remaining_operands(self, node: fx.Node, removed: frozenset[int]) -> list[fx.Node]:
        """Return what an operator still reads: not what goes, nor what `cat` and `stack` leave out for its index' sake."""
        if node.target not in CONCATENATIONS:
            return [source for source in node.all_input_nodes if not self.is_removed(source, removed)]
        axes = cast(AxisChannels, self.removed_by.get(node.name, ()))
        along = axes[argument(node, "dim") % len(axes)] if axes else None
        if along is None:
            return [operand for operand in arguments(node)[0] if not self.is_removed(operand, removed)]
        left = [(operand, [i for i in indices if not along[i] & removed]) for operand, indices in operand_indices(node)]
        return [operand for operand, kept in left if kept and not self.is_removed(operand, removed)]

    def group(self, name: str) -> Group:
        """Return a group by its name; `KeyError` where there is none."""
        return {group.name: group for group in self.groups}[name]


def analyze(program: Program, *, fields: bool = False, together: Collection[str] = ()) -> Analysis:
    """Find every channel of `program`; with `fields`, whole fields as well, those named in `together` as one channel.

    Tags are propagated until a pass ties and freezes nothing new; only the last pass decides what is not zero when
    masked, because ties found late can show that it is after all. Where tags had to be tied along one axis of a
    tensor and all of them ended up frozen, another axis is tried. Time is linear in the size of the graph for each
    pass; most graphs take two.
    """
    tensors = sample_request_tensors(program.signature, WALK_BATCH_SIZE)
    found = find_fields(program, tensors) if fields else None
    walks: list[Walk] = []
    wanted: dict[str, int] = {}
    while len(walks) < MOST_LAYOUTS:
        walks.append(propagate_tags(program.module, tensors, wanted, found, together))
        others = {
            name: layout.alternatives for name, layout in walks[-1].tied_axes.items() if _is_lost(walks[-1], layout)
        }
        untried = {name: axes[0] for name, axes in others.items() if name not in wanted and axes}
        if not untried:
            break
        wanted |= untried
    return _collect(program.module, max(walks, key=lambda walk: _prunable_elements(program.module, walk)))


def propagate_tags(
    module: fx.GraphModule,
    tensors: tuple[Tensor, ...],
    preferred_axes: Mapping[str, int],
    fields: Fields | None = None,
    together: Collection[str] = (),
) -> Walk:
    """Walk until a pass ties and freezes nothing new; return the last walk."""
    sets = DependencySets()
    numbers = [number for number, field in enumerate(fields.ordered if fields else ()) if field.name in together]
    if numbers:
        sets.tie(sets.tag((FIELD_KEY, number, 0)) for number in numbers)
    layouts: dict[str, TiedAxis] = {}
    while True:
        before = sets.changes
        sets.clear_tentative_freezes()
        walk = Walk(module, sets, preferred_axes, fields)
        with torch.no_grad():
            walk.run(*tensors)
        freeze_needed_fields(walk)
        layouts = walk.tied_axes | layouts  # later passes find nothing to choose where the first one tied
        if sets.changes == before:
            walk.tied_axes = layouts
            return walk


def _is_lost(walk: Walk, layout: TiedAxis) -> bool:
    """Whether nothing of what was tied can be removed."""
    doubted = walk.sets.tentatively_frozen_channels()
    return all(walk.sets.channels_in(i) <= doubted.keys() for i in layout.tied.unique().tolist())


def _prunable_elements(module: fx.GraphModule, walk: Walk) -> int:
    target_of = _targets(module)
    channels, doubted = _channels(walk.sets, target_of), walk.sets.tentatively_frozen_channels()
    slices = [s for channel, its_slices in channels.items() if channel not in doubted for s in its_slices]
    sizes = {name: tensor_at(module, name) for name in {s.tensor for s in slices}}
    return sum(sizes[s.tensor].numel() // sizes[s.tensor].shape[s.axis] for s in slices)


def _targets(module: fx.GraphModule) -> dict[str, str]:
    return {node.name: str(node.target) for node in module.graph.nodes if node.op == "get_attr"}


def _collect(module: fx.GraphModule, walk: Walk) -> Analysis:
    sets, doubted = walk.sets, walk.sets.tentatively_frozen_channels()
    target_of = _targets(module)
    channels = _channels(sets, target_of)
    tables = frozenset(target_of[name] for name in walk.tables)
    live = {c: slices for c, slices in channels.items() if c not in doubted and not sets.is_unused_optional(c)}
    removed_by = {
        node.name: _resolve(sets, described, live, node.meta["val"])
        for node, described in walk.node_tags.items()
        if described is not None
    }
    gone_with = {node.name: _removed_entirely_by(sets, described, live) for node, described in walk.node_tags.items()}
    fields_of = _fields_of_channels(sets, walk.fields)
    return Analysis(
        groups=_groups(module, live, tables, fields_of),
        frozen=_frozen_axes(module, sets, target_of, doubted),
        removed_by=removed_by,
        tables=tables,
        removed_entirely_by={name: channels for name, channels in gone_with.items() if channels},
        fields=walk.fields,
        frozen_fields=_frozen_fields(sets, walk.fields, doubted),
    )


def _channels(sets: DependencySets, target_of: Mapping[str, str]) -> dict[int, list[Slice]]:
    """Gather for each channel the slices of tensors that go with it."""
    slices: dict[int, list[Slice]] = defaultdict(list)
    for tag in sets.all_tags():
        name, axis, index = cast(tuple[str, int, int], sets.key(tag))
        for channel in sets.find_channels(tag):
            slices[channel] += [Slice(target_of[name], axis, index)] if name in target_of else []
    return slices


def _fields_of_channels(sets: DependencySets, fields: Fields | None) -> dict[int, list[Field]]:
    """Gather for each channel the fields that go with it."""
    found: dict[int, list[Field]] = defaultdict(list)
    for number, field in enumerate(fields.ordered if fields is not None else ()):
        for channel in sets.find_channels(sets.tag((FIELD_KEY, number, 0))):
            found[channel].append(field)
    return found


def _groups(
    module: fx.GraphModule,
    live: Mapping[int, list[Slice]],
    tables: frozenset[str],
    fields_of: Mapping[int, list[Field]],
) -> tuple[Group, ...]:
    """Fields form a group, and channels on the same axes do; one without a parameter is nobody's to prune."""
    whole = tuple(Channel(c, tuple(live[c]), tuple(fields)) for c, fields in fields_of.items() if c in live)
    by_axes: dict[tuple[tuple[str, int], ...], list[Channel]] = defaultdict(list)
    for identity, slices in live.items():
        if identity in fields_of:
            continue
        axes = tuple(dict.fromkeys((s.tensor, s.axis) for s in slices))
        if any(isinstance(tensor_at(module, tensor), torch.nn.Parameter) for tensor, _ in axes):
            by_axes[axes].append(Channel(identity, tuple(slices)))
    groups = [Group(FIELD_GROUP, "field", whole)] if whole else []
    names: dict[str, int] = defaultdict(int)
    for axes, channels in by_axes.items():
        kind: GroupKind = "embedding" if any(tensor in tables and axis == 1 for tensor, axis in axes) else "hidden"
        tensor, axis = next(((t, a) for t, a in axes if t in tables and a == 1), axes[0])
        name = f"{tensor}:{axis}"
        names[name] += 1
        groups.append(Group(name if names[name] == 1 else f"{name}#{names[name]}", kind, tuple(channels)))
    return tuple(groups)


def _frozen_axes(
    module: fx.GraphModule, sets: DependencySets, target_of: Mapping[str, str], doubted: Mapping[int, Reason]
) -> tuple[FrozenAxis, ...]:
    counts: dict[tuple[str, int, Reason], int] = defaultdict(int)
    for tag in sets.all_tags():
        name, axis, _ = cast(tuple[str, int, int], sets.key(tag))
        reason = sets.find_freeze_reason(tag) or next(
            (doubted[c] for c in sets.find_channels(tag) if c in doubted), None
        )
        if reason is not None and isinstance(_parameter(module, target_of.get(name)), torch.nn.Parameter):
            counts[target_of[name], axis, reason] += 1
    return tuple(FrozenAxis(tensor, axis, count, reason) for (tensor, axis, reason), count in counts.items())


def _frozen_fields(
    sets: DependencySets, fields: Fields | None, doubted: Mapping[int, Reason]
) -> tuple[FrozenField, ...]:
    frozen = []
    for number, field in enumerate(fields.ordered if fields is not None else ()):
        tag = sets.tag((FIELD_KEY, number, 0))
        reason = sets.find_freeze_reason(tag) or next(
            (doubted[c] for c in sets.find_channels(tag) if c in doubted), None
        )
        if reason is not None:
            frozen.append(FrozenField(field, reason))
    return tuple(frozen)


def _parameter(module: fx.GraphModule, target: str | None) -> Tensor | None:
    return None if target is None else tensor_at(module, target)


def _removed_entirely_by(
    sets: DependencySets, described: NodeTags, live: Mapping[int, object]
) -> frozenset[int] | tuple[frozenset[int], ...]:
    if isinstance(described, tuple):
        return tuple(frozenset(_removed_entirely_by(sets, part, live)) for part in described)  # type: ignore[arg-type]
    return (
        frozenset(c for c in sets.channels_in(described.removed_entirely_by) if c in live)
        if described is not None
        else frozenset()
    )


def _resolve(
    sets: DependencySets, described: TensorTags | tuple[TensorTags | None, ...], live: Mapping[int, object], traced: Any
) -> AxisChannels | tuple[AxisChannels, ...]:
    if isinstance(described, tuple):
        parts = zip(described, traced, strict=True)
        resolved = (_resolve(sets, part, live, t) if part is not None else () for part, t in parts)
        return cast(tuple[AxisChannels, ...], tuple(resolved))

    def channels(axis: Tensor, size: Any) -> tuple[frozenset[int], ...] | None:
        if not isinstance(size, int) or not bool(axis.any()):
            return None
        return tuple(frozenset(c for c in sets.channels_in(i) if c in live) for i in axis.tolist())

    return tuple(channels(axis, size) for axis, size in zip(described.removed_by, traced.shape, strict=True))
