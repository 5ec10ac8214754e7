"""Nodes that remain when whole values are removed, and the fields that are frozen because a remaining node needs them."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, cast

from torch import fx

from recprune_export.channels.dependency_sets import EMPTY, Reason
from recprune_export.channels.tags import TensorTags
from recprune_export.channels.walk import FIELD_KEY, NodeTags, Walk, operator_name
from recprune_export.program.nodes import find_source_line


class Need(NamedTuple):
    """A node that needs a channel, unless the channel removes the node."""

    channel: int
    node: fx.Node
    reason: Reason


def find_live_nodes(graph: fx.Graph, reads: Callable[[fx.Node], Iterable[fx.Node]]) -> frozenset[fx.Node]:
    """Return the nodes on which the outputs depend, where `reads` returns the operands of a node."""
    live: set[fx.Node] = set()
    pending = [node for node in graph.nodes if node.op == "output"]
    while pending:
        node = pending.pop()
        if node not in live:
            live.add(node)
            pending.extend(reads(node))
    return frozenset(live)


def freeze_needed_fields(walk: Walk) -> None:
    """Freeze the fields that a remaining node needs: an operator, or another use of their ids."""
    if walk.fields is None:
        return
    graph = cast(fx.GraphModule, walk.module).graph
    needs: dict[int, list[Need]] = defaultdict(list)
    for need in (*_operands(walk, graph), *_ids(walk, graph)):
        needs[need.channel].append(need)
    removed_nodes: dict[int, set[fx.Node]] = defaultdict(set)
    for node, described in walk.node_tags.items():
        for channel in walk.sets.channels_in(find_removed_entirely_by(walk, described)):
            removed_nodes[channel].add(node)
    for channel, channel_needs in needs.items():
        reason = _first_reason(graph, channel_needs, removed_nodes[channel])
        if reason is not None:
            walk.sets.freeze_channel(channel, reason)


def _first_reason(graph: fx.Graph, needs: Sequence[Need], removed: Collection[fx.Node]) -> Reason | None:
    live = find_live_nodes(graph, lambda node: (source for source in node.all_input_nodes if source not in removed))
    return next((need.reason for need in needs if need.node in live), None)


def find_removed_entirely_by(walk: Walk, described: NodeTags) -> int:
    """Return the fields that remove a whole value; of several outputs, those that remove all of them."""
    if isinstance(described, tuple):
        return walk.sets.intersect_sets(find_removed_entirely_by(walk, output) for output in described)
    return described.removed_entirely_by if isinstance(described, TensorTags) else EMPTY


def _operands(walk: Walk, graph: fx.Graph) -> Iterator[Need]:
    for node in graph.nodes:
        removers = walk.sets.channels_in(find_removed_entirely_by(walk, walk.node_tags.get(node)))
        text = "no output would remain" if node.op == "output" else f"{operator_name(node)} of zeros is not zero"
        for source in node.all_input_nodes:
            if not walk.is_operand_optional(node, source):
                for channel in (
                    walk.sets.channels_in(find_removed_entirely_by(walk, walk.node_tags.get(source))) - removers
                ):
                    yield Need(channel, node, Reason(text, find_source_line(node)))


def _ids(walk: Walk, graph: fx.Graph) -> Iterator[Need]:
    assert walk.fields is not None
    for node in graph.nodes:
        for number in walk.fields.readers.get(node.name, ()):
            reason = Reason(f"its ids are also used by {operator_name(node)}", find_source_line(node))
            for channel in walk.sets.find_channels(walk.sets.tag((FIELD_KEY, number, 0))):
                yield Need(channel, node, reason)
