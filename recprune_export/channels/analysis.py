"""`analyze`: the channel groups of a program, and its frozen axes with the reasons."""

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, cast

import torch
from torch import Tensor, fx

from recprune_export.channels import rules  # noqa: F401  (registers the rules)
from recprune_export.channels.dependency_sets import DependencySets, Reason, distinct, has_tags
from recprune_export.channels.fields import Field, Fields, find_fields
from recprune_export.channels.group_labels import label_groups
from recprune_export.channels.groups import FIELD_GROUP, Channel, FrozenAxis, FrozenField, Group, GroupKind, Slice
from recprune_export.channels.inferred_rules import InferredRule, list_inferred_rules
from recprune_export.channels.liveness import freeze_needed_fields
from recprune_export.channels.rules.data_movement import CONCATENATIONS, operand_indices
from recprune_export.channels.tags import TensorTags
from recprune_export.channels.walk import FIELD_KEY, NodeTags, TiedAxis, Walk
from recprune_export.errors import ModelError
from recprune_export.program.canonical import tensor_at
from recprune_export.program.failures import REPORT, explain_failures
from recprune_export.program.nodes import argument, arguments
from recprune_export.program.program import Program
from recprune_export.program.requests.valid_requests import find_valid_request

# For each axis, for each index, the channels that remove it; None for an axis that never shrinks.
AxisChannels = tuple[tuple[frozenset[int], ...] | None, ...]
LiveChannels = Callable[[int], frozenset[int]]  # the channels of a set of tags that can be removed


@dataclass(frozen=True)
class Analysis:
    """The channel groups of one program, and the channels that each value of its graph depends on.

    `removed_by[node]` holds the sets of channels by axis and index; for a node with several outputs, one for each.
    `removed_entirely_by[node]` holds the channels that remove the whole value; for several outputs, those of each.
    `fields` is None if the analysis did not include fields. `inferred` are the rules that trials found.
    """

    groups: tuple[Group, ...]
    frozen: tuple[FrozenAxis, ...]
    removed_by: Mapping[str, AxisChannels | tuple[AxisChannels, ...]]
    tables: frozenset[str]
    removed_entirely_by: Mapping[str, frozenset[int] | tuple[frozenset[int], ...]]
    fields: Fields | None = None
    frozen_fields: tuple[FrozenField, ...] = ()
    inferred: tuple[InferredRule, ...] = ()

    def is_removed(self, node: fx.Node, removed: frozenset[int], output: int | None = None) -> bool:
        """Return whether removing channels removes a node's whole value; of several outputs, one or all of them."""
        channels = self.removed_entirely_by.get(node.name, frozenset())
        if isinstance(channels, frozenset):
            return bool(channels & removed)
        return all(bool(sets & removed) for sets in (channels if output is None else [channels[output]]))

    def remaining_operands(self, node: fx.Node, removed: frozenset[int]) -> list[fx.Node]:
        """Return the operands that an operator still reads: neither removed ones, nor those `cat` and `stack` leave out."""
        if node.target not in CONCATENATIONS:
            return [source for source in node.all_input_nodes if not self.is_removed(source, removed)]
        axes = cast(AxisChannels, self.removed_by.get(node.name, ()))
        along = axes[argument(node, "dim") % len(axes)] if axes else None
        if along is None:
            return [operand for operand in arguments(node)[0] if not self.is_removed(operand, removed)]
        remaining = [
            (source, [i for i in indices if not along[i] & removed]) for source, indices in operand_indices(node)
        ]
        return [source for source, indices in remaining if indices and not self.is_removed(source, removed)]

    def group(self, name: str) -> Group:
        """Return a group by its name. Raises `KeyError` for an unknown name."""
        return self._groups_by_name[name]

    @cached_property
    def _groups_by_name(self) -> Mapping[str, Group]:
        return {group.name: group for group in self.groups}


def analyze(program: Program, *, fields: bool = False, together: Collection[str] = ()) -> Analysis:
    """Find every channel of `program`; with `fields`, whole fields as well, those named in `together` as one channel.

    Tags are propagated until a pass ties and freezes nothing new; only the last pass freezes channels that are not zero
    when masked, because a later tie can show that they are. Where tags had to be tied along one axis of a tensor and all
    of them ended up frozen, another axis is tried. Time and memory are linear in the edges of the graph and in the indices
    of axes that may shrink, for each pass; most graphs take two passes. The rows of a table take no memory. With
    `fields`, each field that a node needs costs one more traversal of the graph.

    Raises `ModelError` with the line of the model's source where it fails on every request that is tried.
    """
    tensors = find_valid_request(program, batch=2)
    with explain_failures("The analysis of the model", ModelError, REPORT):
        return _analyze(program, tensors, fields, together)


def _analyze(program: Program, tensors: tuple[Tensor, ...], fields: bool, together: Collection[str]) -> Analysis:
    max_walks = 4  # choices of tied axes that are tried for one program
    program_fields = find_fields(program, tensors)
    field_lookups = program_fields if fields else None
    walks: list[Walk] = []
    preferred_axes: dict[str, int] = {}
    while len(walks) < max_walks:
        walks.append(propagate_tags(program.module, tensors, preferred_axes, field_lookups, together))
        alternatives = {
            name: layout.alternatives for name, layout in walks[-1].tied_axes.items() if _is_lost(walks[-1], layout)
        }
        untried = {name: axes[0] for name, axes in alternatives.items() if name not in preferred_axes and axes}
        if not untried:
            break
        preferred_axes |= untried
    if len(walks) == 1:
        return _collect(program.module, walks[0], program_fields)
    best = max(walks, key=lambda walk: _prunable_elements(program.module, walk))
    return _collect(program.module, best, program_fields)


def propagate_tags(
    module: fx.GraphModule,
    tensors: tuple[Tensor, ...],
    preferred_axes: Mapping[str, int],
    fields: Fields | None = None,
    together: Collection[str] = (),
) -> Walk:
    """Walk the graph until a pass ties and freezes nothing new; return the last walk."""
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
        layouts = walk.tied_axes | layouts  # later passes have no choice where the first one tied tags
        if sets.changes == before:
            walk.tied_axes = layouts
            return walk


def _is_lost(walk: Walk, layout: TiedAxis) -> bool:
    """Return whether all tags that were tied are frozen."""
    frozen = walk.sets.tentatively_frozen_channels()
    return all(walk.sets.channels_in(i) <= frozen.keys() for i in distinct(layout.tied))


def _prunable_elements(module: fx.GraphModule, walk: Walk) -> int:
    targets = _targets(module)
    channels, frozen = _channels(walk.sets, targets), walk.sets.tentatively_frozen_channels()
    slices = [s for channel, members in channels.items() if channel not in frozen for s in members]
    sizes = {name: tensor_at(module, name) for name in {s.tensor for s in slices}}
    return sum(sizes[s.tensor].numel() // sizes[s.tensor].shape[s.axis] for s in slices)


def _targets(module: fx.GraphModule) -> dict[str, str]:
    return {node.name: str(node.target) for node in module.graph.nodes if node.op == "get_attr"}


def _collect(module: fx.GraphModule, walk: Walk, program_fields: Fields) -> Analysis:
    sets, frozen = walk.sets, walk.sets.tentatively_frozen_channels()
    targets = _targets(module)
    channels = _channels(sets, targets)
    tables = frozenset(targets[name] for name in walk.tables)
    live = {c: slices for c, slices in channels.items() if c not in frozen and not sets.is_unused_optional(c)}

    @cache
    def live_channels(set_id: int) -> frozenset[int]:
        return frozenset(c for c in sets.channels_in(set_id) if c in live)

    removed_by = {
        node.name: _resolve(live_channels, described, node.meta["val"])
        for node, described in walk.node_tags.items()
        if described is not None
    }
    removed_entirely_by = {
        node.name: _removed_entirely_by(live_channels, described) for node, described in walk.node_tags.items()
    }
    fields_by_channel = _fields_of_channels(sets, walk.fields)
    groups = _groups(module, live, tables, fields_by_channel)
    return Analysis(
        groups=label_groups(module, groups, removed_by, tables, program_fields),
        frozen=_frozen_axes(module, sets, targets, frozen),
        removed_by=removed_by,
        tables=tables,
        removed_entirely_by={name: removers for name, removers in removed_entirely_by.items() if removers},
        fields=walk.fields,
        frozen_fields=_frozen_fields(sets, walk.fields, frozen),
        inferred=list_inferred_rules(module.graph),
    )


def _channels(sets: DependencySets, targets: Mapping[str, str]) -> dict[int, list[Slice]]:
    """Collect the slices of tensors that each channel removes."""
    slices: dict[int, list[Slice]] = defaultdict(list)
    for tag in sets.all_tags():
        name, axis, index = cast(tuple[str, int, int], sets.key(tag))
        for channel in sets.find_channels(tag):
            slices[channel] += [Slice(targets[name], axis, index)] if name in targets else []
    return slices


def _fields_of_channels(sets: DependencySets, fields: Fields | None) -> dict[int, list[Field]]:
    """Collect the fields that each channel removes."""
    fields_by_channel: dict[int, list[Field]] = defaultdict(list)
    for number, field in enumerate(fields.ordered if fields is not None else ()):
        for channel in sets.find_channels(sets.tag((FIELD_KEY, number, 0))):
            fields_by_channel[channel].append(field)
    return fields_by_channel


def _groups(
    module: fx.GraphModule,
    live: Mapping[int, list[Slice]],
    tables: frozenset[str],
    fields_by_channel: Mapping[int, list[Field]],
) -> tuple[Group, ...]:
    """Group the channels of fields, and channels on the same axes; a channel without a parameter is in no group."""
    whole = tuple(Channel(c, tuple(live[c]), tuple(fields)) for c, fields in fields_by_channel.items() if c in live)
    by_axes: dict[tuple[tuple[str, int], ...], list[Channel]] = defaultdict(list)
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for identity, slices in live.items():
        if identity in fields_by_channel:
            continue
        axes = tuple(dict.fromkeys((s.tensor, s.axis) for s in slices))
        if any(tensor in parameters for tensor, _ in axes):
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
    module: fx.GraphModule, sets: DependencySets, targets: Mapping[str, str], tentative: Mapping[int, Reason]
) -> tuple[FrozenAxis, ...]:
    counts: dict[tuple[str, int, Reason], int] = defaultdict(int)
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for tag in sets.all_tags():
        name, axis, _ = cast(tuple[str, int, int], sets.key(tag))
        reason = sets.find_freeze_reason(tag) or next(
            (tentative[c] for c in sets.find_channels(tag) if c in tentative), None
        )
        if reason is not None and targets.get(name) in parameters:
            counts[targets[name], axis, reason] += 1
    return tuple(FrozenAxis(tensor, axis, count, reason) for (tensor, axis, reason), count in counts.items())


def _frozen_fields(
    sets: DependencySets, fields: Fields | None, tentative: Mapping[int, Reason]
) -> tuple[FrozenField, ...]:
    frozen = []
    for number, field in enumerate(fields.ordered if fields is not None else ()):
        tag = sets.tag((FIELD_KEY, number, 0))
        reason = sets.find_freeze_reason(tag) or next(
            (tentative[c] for c in sets.find_channels(tag) if c in tentative), None
        )
        if reason is not None:
            frozen.append(FrozenField(field, reason))
    return tuple(frozen)


def _removed_entirely_by(
    live_channels: LiveChannels, described: NodeTags
) -> frozenset[int] | tuple[frozenset[int], ...]:
    if isinstance(described, tuple):
        return tuple(frozenset(_removed_entirely_by(live_channels, output)) for output in described)  # type: ignore[arg-type]
    return live_channels(described.removed_entirely_by) if described is not None else frozenset()


def _resolve(
    live_channels: LiveChannels, described: TensorTags | tuple[TensorTags | None, ...], traced: Any
) -> AxisChannels | tuple[AxisChannels, ...]:
    if isinstance(described, tuple):
        outputs = zip(described, traced, strict=True)
        resolved = (_resolve(live_channels, tags, t) if tags is not None else () for tags, t in outputs)
        return cast(tuple[AxisChannels, ...], tuple(resolved))

    def channels(axis: Tensor, size: Any) -> tuple[frozenset[int], ...] | None:
        if not isinstance(size, int) or not has_tags(axis):
            return None
        return tuple(live_channels(i) for i in axis.tolist())

    return tuple(channels(axis, size) for axis, size in zip(described.removed_by, traced.shape, strict=True))
