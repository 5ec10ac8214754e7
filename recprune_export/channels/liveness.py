"""What is left of a graph when whole values go, and which fields cannot go because something left still needs them."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, cast

from torch import fx

from recprune_export.channels.dependency_sets import EMPTY, Reason
from recprune_export.channels.tags import Labels
from recprune_export.channels.walk import FIELD, Described, Walk, operator_name, source_of


class Need(NamedTuple):
    """A node that cannot do without a channel, unless it goes itself."""

    channel: int
    node: fx.Node
    reason: Reason


def alive(graph: fx.Graph, reads: Callable[[fx.Node], Iterable[fx.Node]]) -> frozenset[fx.Node]:
    """Return the nodes on which the outputs depend, where `reads` tells what a node takes its operands from."""
    found: set[fx.Node] = set()
    pending = [node for node in graph.nodes if node.op == "output"]
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending.extend(reads(node))
    return frozenset(found)


def freeze_needed_fields(walk: Walk) -> None:
    """Keep the fields without which something is left that needs them: an operator, or another use of their ids."""
    if walk.fields is None:
        return
    graph = cast(fx.GraphModule, walk.module).graph
    needs: dict[int, list[Need]] = defaultdict(list)
    for need in (*_operands(walk, graph), *_ids(walk, graph)):
        needs[need.channel].append(need)
    gone_with: dict[int, set[fx.Node]] = defaultdict(set)
    for node, described in walk.described.items():
        for channel in walk.sets.members(whole_of(walk, described)):
            gone_with[channel].add(node)
    for channel, found in needs.items():
        reason = _first_reason(graph, found, gone_with[channel])
        if reason is not None:
            walk.sets.freeze_channel(channel, reason)


def _first_reason(graph: fx.Graph, needs: Sequence[Need], gone: Collection[fx.Node]) -> Reason | None:
    left = alive(graph, lambda node: (source for source in node.all_input_nodes if source not in gone))
    return next((need.reason for need in needs if need.node in left), None)


def whole_of(walk: Walk, described: Described) -> int:
    """Return the fields with which a value goes as a whole; several outputs go where all of them do."""
    if isinstance(described, tuple):
        return walk.sets.all_of(whole_of(walk, part) for part in described)
    return described.whole if isinstance(described, Labels) else EMPTY


def _operands(walk: Walk, graph: fx.Graph) -> Iterator[Need]:
    for node in graph.nodes:
        own = walk.sets.members(whole_of(walk, walk.described.get(node)))
        because = (
            "nothing is left of the answer" if node.op == "output" else f"{operator_name(node)} of zeros is not zero"
        )
        for source in node.all_input_nodes:
            if not walk.can_go_without(node, source):
                for channel in walk.sets.members(whole_of(walk, walk.described.get(source))) - own:
                    yield Need(channel, node, Reason(because, source_of(node)))


def _ids(walk: Walk, graph: fx.Graph) -> Iterator[Need]:
    assert walk.fields is not None
    for node in graph.nodes:
        for number in walk.fields.readers.get(node.name, ()):
            because = Reason(f"its ids are also used by {operator_name(node)}", source_of(node))
            for channel in walk.sets.channels_of(walk.sets.label((FIELD, number, 0))):
                yield Need(channel, node, because)
