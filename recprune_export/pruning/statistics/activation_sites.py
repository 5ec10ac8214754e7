"""Where in the graph a group's channels are looked at, and whether the layers that read them can be refitted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx

from recprune_export.channels.contractions import CONTRACTIONS
from recprune_export.program.program import Program
from recprune_export.pruning.statistics.moments import ActivationSite


@dataclass(frozen=True)
class ConsumerSites:
    """The points at which a group is read or, where no layer reads it, first put out.

    `reconstructible`: wherever its channels end, a linear layer reads them, so that it can make up for what goes.
    """

    sites: tuple[ActivationSite, ...]
    reconstructible: bool


def find_consumer_sites(program: Program) -> dict[str, ConsumerSites]:
    """Find for each group the values that layers with weights of their own read along its axis."""
    axes = _axes_of_groups(program)
    puts = find_producer_sites(program)
    reads: dict[str, list[ActivationSite]] = {g.name: [] for g in program.analysis.groups}
    ends_elsewhere: set[str] = set()
    for node in program.module.graph.nodes:
        if node.op != "call_function":
            continue
        here = axes[node]
        sources = [source for source in node.all_input_nodes if source.op == "call_function"]
        weights = [source for source in node.all_input_nodes if source.op == "get_attr"]
        for source in sources:
            for name, axis in axes[source].items():
                if name in here or not isinstance(node.meta.get("val"), Tensor):
                    continue
                if node.target in CONTRACTIONS and any(name in axes[weight] for weight in weights):
                    reads[name].append(ActivationSite(source.name, axis))
                else:
                    ends_elsewhere.add(name)
    return {
        name: ConsumerSites(
            tuple(dict.fromkeys(reads[name] or puts[name])), bool(reads[name]) and name not in ends_elsewhere
        )
        for name in reads
        if reads[name] or puts[name]
    }


def find_producer_sites(program: Program) -> dict[str, tuple[ActivationSite, ...]]:
    """Find for each group the values that first hold its channels: zero there, and the channel is masked."""
    axes = _axes_of_groups(program)
    puts: dict[str, list[ActivationSite]] = {g.name: [] for g in program.analysis.groups}
    for node in program.module.graph.nodes:
        if node.op != "call_function":
            continue
        sources = [source for source in node.all_input_nodes if source.op == "call_function"]
        for name, axis in axes[node].items():
            if not any(name in axes[source] for source in sources):
                puts[name].append(ActivationSite(node.name, axis))
    return {name: tuple(points) for name, points in puts.items()}


def _axes_of_groups(program: Program) -> dict[fx.Node, dict[str, int]]:
    analysis = program.analysis
    group_of = {c.identity: g.name for g in analysis.groups for c in g.channels}
    widths = {g.name: g.width for g in analysis.groups}
    nodes = program.module.graph.nodes
    return {node: _axes(node, analysis.removed_by.get(node.name), group_of, widths) for node in nodes}


def _axes(node: fx.Node, removed_by: Any, group_of: Mapping[int, str], widths: Mapping[str, int]) -> dict[str, int]:
    """The groups that a value carries whole on one axis."""
    if removed_by is None or not isinstance(node.meta.get("val"), Tensor):
        return {}
    found: dict[str, int] = {}
    for axis, sets in enumerate(removed_by):
        channels = {c for channels in sets or () for c in channels if c in group_of}
        numbers: dict[str, int] = {}
        for channel in channels:
            numbers[group_of[channel]] = numbers.get(group_of[channel], 0) + 1
        found |= {name: axis for name, number in numbers.items() if number == widths[name]}
    return found
