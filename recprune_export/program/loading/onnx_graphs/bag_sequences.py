"""`EmbeddingBag` as PyTorch's newer exporter writes it: a Loop inserts the reduced rows of one bag after the other in a sequence."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from recprune_export.program.loading.onnx_graphs.bag_loops import EMBEDDING_BAG, MODES
from recprune_export.program.loading.onnx_graphs.onnx_graph import Node, OnnxGraph

_MOVES = ("Slice", "Gather", "Identity", "Reshape")


def replace_bag_sequences(graph: OnnxGraph) -> OnnxGraph:
    """Return the graph with `EmbeddingBag` in the place of each sequence of bags.

    Before: all ids of all bags are looked up, `rows = Gather(table, ids)`, times their weights. A Loop takes the rows of each bag
    between two offsets, with a padding id without those that are of it, reduces them, and inserts the result in a sequence, which
    `ConcatFromSequence` joins. After: `EmbeddingBag(table, ids, offsets)`.
    """
    producers = graph.find_producers()
    bags = {node.outputs[0]: bag for node in graph.nodes if (bag := _find_bag(node, producers, graph)) is not None}
    if not bags:
        return graph
    nodes = tuple(bags.get(node.outputs[0], node) if node.outputs else node for node in graph.nodes)
    return _drop_unread(replace(graph, nodes=nodes))


def _find_bag(node: Node, producers: Mapping[str, Node], graph: OnnxGraph) -> Node | None:
    """Return the bag that a `ConcatFromSequence` joins; None for any other node."""
    loop = (
        producers.get(node.inputs[0]) if node.operator == "ConcatFromSequence" and not node.get("new_axis", 0) else None
    )
    body = None if loop is None or loop.operator != "Loop" else loop.get("body")
    if body is None:
        return None
    inside = list(_iterate_nodes(body))
    made = {name: inner for inner in inside for name in inner.outputs}
    reductions = [inner for inner in inside if inner.operator in MODES]
    modes = {MODES[inner.operator] for inner in reductions}
    if "mean" in modes:  # the mean of the last bag is a sum, divided by the number of its ids
        modes -= {"sum"}
    if len(modes) != 1 or not any(inner.operator == "SequenceInsert" for inner in inside):
        return None
    rows = _trace(reductions[0].inputs[0], made)
    looked_up, weights = _read_rows(rows, producers, graph)
    if looked_up is None:
        return None
    table, ids = looked_up.inputs
    read = {inner.inputs[0] for inner in inside if inner.operator in ("Slice", "Gather")}
    offsets = [name for name in read if name not in made and name not in (rows, ids)]
    if len(offsets) != 1:
        return None
    attributes = {"mode": modes.pop(), "padding": _find_padding(inside, ids, graph)}
    inputs = (table, ids, offsets[0], *([weights] if weights else []))
    return replace(node, operator=EMBEDDING_BAG, inputs=inputs, attributes=attributes)


def _iterate_nodes(graph: OnnxGraph) -> Iterator[Node]:
    for node in graph.nodes:
        yield node
        for attribute in node.attributes.values():
            if isinstance(attribute, OnnxGraph):
                yield from _iterate_nodes(attribute)


def _trace(name: str, made: Mapping[str, Node]) -> str:
    """Return the value of which `name` has some rows, through the branch of an If that has any."""
    while (node := made.get(name)) is not None:
        if node.operator == "If":
            name = node.attributes["else_branch"].outputs[0]
        elif node.operator in _MOVES:
            name = node.inputs[0]
        else:
            break
    return name


def _read_rows(name: str, producers: Mapping[str, Node], graph: OnnxGraph) -> tuple[Node | None, str]:
    """Return the lookup of all rows, and the weights by which they are multiplied, empty for ones."""
    node, weights = producers.get(name), ""
    if node is not None and node.operator == "Mul":
        spread = producers.get(node.inputs[1])
        if spread is None or spread.operator != "Unsqueeze":
            return None, ""
        weights = "" if _is_one(spread.inputs[0], producers, graph) else spread.inputs[0]
        node = producers.get(node.inputs[0])
    is_lookup = node is not None and node.operator == "Gather" and not node.get("axis", 0)
    return (node if is_lookup else None), weights


def _is_one(name: str, producers: Mapping[str, Node], graph: OnnxGraph) -> bool:
    node = producers.get(name)
    name = node.inputs[0] if node is not None and node.operator in ("Expand", "Identity") else name
    array = graph.initializers.get(name)
    return array is not None and bool((array == 1).all())


def _find_padding(inside: list[Node], ids: str, graph: OnnxGraph) -> int | None:
    """Return the id of which no row is counted: ids are read in the Loop, and compared with it."""
    if not any(node.operator == "Gather" and node.inputs[0] == ids for node in inside):
        return None
    compared = {
        int(array.reshape(-1)[0])
        for node in inside
        if node.operator == "Equal"
        for name in node.inputs
        if (array := graph.initializers.get(name)) is not None and isinstance(array, np.ndarray)
    }
    return next(iter(compared), None) if len(compared) == 1 else None


def _drop_unread(graph: OnnxGraph) -> OnnxGraph:
    """Return the graph without the nodes that nothing reads."""
    needed, kept = {*graph.outputs}, []
    for node in reversed(graph.nodes):
        if needed.intersection(node.outputs):
            needed.update(node.reads())
            kept.append(node)
    return replace(graph, nodes=tuple(reversed(kept)))
