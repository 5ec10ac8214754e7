"""Values of the graph at which a group's channels are recorded, and whether the layers that read them can be refitted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from recprune_export.channels.contractions import CONTRACTIONS
from recprune_export.program.program import Program
from recprune_export.pruning.statistics.moments import ActivationSite


@dataclass(frozen=True)
class ConsumerSites:
    """The sites at which layers read a group or, where no layer reads it, the sites that first hold it.

    `reconstructible`: all readers of its channels are linear layers, so that a refit can compensate for removed ones.
    """

    sites: tuple[ActivationSite, ...]
    reconstructible: bool


def find_consumer_sites(program: Program) -> dict[str, ConsumerSites]:
    """Return for each group the values that layers with weights read along its axis."""
    axes = _axes_of_groups(program)
    producers = find_producer_sites(program)
    reads: dict[str, list[ActivationSite]] = {g.name: [] for g in program.analysis.groups}
    ends_elsewhere: set[str] = set()
    for node in program.module.graph.nodes:
        if node.op != "call_function":
            continue
        node_axes = axes[node]
        sources = [source for source in node.all_input_nodes if source.op == "call_function"]
        weights = [source for source in node.all_input_nodes if source.op == "get_attr"]
        for source in sources:
            for name, axis in axes[source].items():
                if name in node_axes or not isinstance(node.meta.get("val"), Tensor):
                    continue
                if node.target in CONTRACTIONS and any(name in axes[weight] for weight in weights):
                    reads[name].append(ActivationSite(source.name, axis))
                else:
                    ends_elsewhere.add(name)
    return {
        name: ConsumerSites(
            tuple(dict.fromkeys(reads[name] or producers[name])), bool(reads[name]) and name not in ends_elsewhere
        )
        for name in reads
        if reads[name] or producers[name]
    }


def find_producer_sites(program: Program) -> dict[str, tuple[ActivationSite, ...]]:
    """Return for each group the values that first hold its channels: zeros in them mask a channel."""
    axes = _axes_of_groups(program)
    producers: dict[str, list[ActivationSite]] = {g.name: [] for g in program.analysis.groups}
    for node in program.module.graph.nodes:
        if node.op != "call_function":
            continue
        sources = [source for source in node.all_input_nodes if source.op == "call_function"]
        for name, axis in axes[node].items():
            if not any(name in axes[source] for source in sources):
                producers[name].append(ActivationSite(node.name, axis))
    return {name: tuple(sites) for name, sites in producers.items()}


def _axes_of_groups(program: Program) -> dict[fx.Node, dict[str, int]]:
    analysis = program.analysis
    group_names = {c.identity: g.name for g in analysis.groups for c in g.channels}
    widths = {g.name: g.width for g in analysis.groups}
    nodes = program.module.graph.nodes
    return {node: _axes(node, analysis.removed_by.get(node.name), group_names, widths) for node in nodes}


def _axes(node: fx.Node, removed_by: Any, group_names: Mapping[int, str], widths: Mapping[str, int]) -> dict[str, int]:
    """Return the groups whose channels are all on one axis of a value, with the axis."""
    if removed_by is None or not isinstance(node.meta.get("val"), Tensor):
        return {}
    group_axes: dict[str, int] = {}
    for axis, sets in enumerate(removed_by):
        channels = {c for channels in sets or () for c in channels if c in group_names}
        numbers: dict[str, int] = {}
        for channel in channels:
            numbers[group_names[channel]] = numbers.get(group_names[channel], 0) + 1
        group_axes |= {name: axis for name, number in numbers.items() if number == widths[name]}
    return group_axes
