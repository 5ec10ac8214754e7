"""`EmbeddingBag` as PyTorch's exporter writes it: a Loop over the bags, each of which is looked up and reduced by itself."""

from dataclasses import dataclass, replace

import numpy as np

from recprune_export.program.loading.onnx_graphs.onnx_graph import Node, OnnxGraph

EMBEDDING_BAG = (
    "EmbeddingBag"  # no operator of ONNX: table, ids, offsets with the end of the last bag, weights of the ids
)
_MODES = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max"}


@dataclass(frozen=True)
class _Bag:
    table: str
    ids: str
    starts: str
    ends: str
    mode: str
    weights: str | None


def replace_bag_loops(graph: OnnxGraph) -> OnnxGraph:
    """Return the graph with `EmbeddingBag` in the place of each Loop over the bags of a table.

    Before: a Loop whose body takes `Slice(ids, starts[i], ends[i])`, looks up its rows and reduces them, where starts and ends are
    `offsets[:-1]` and `offsets[1:]`. After: `EmbeddingBag(table, ids, offsets)`.
    """
    producers = {name: node for node in graph.nodes for name in node.outputs}
    return replace(graph, nodes=tuple(_replace(node, producers, graph) for node in graph.nodes))


def _replace(node: Node, producers: dict[str, Node], graph: OnnxGraph) -> Node:
    body = node.get("body")
    if node.operator != "Loop" or not isinstance(body, OnnxGraph) or len(node.inputs) != 2 or len(node.outputs) != 1:
        return node
    bag = _read_body(body)
    if bag is None:
        return node
    starts, ends = producers.get(bag.starts), producers.get(bag.ends)
    if starts is None or ends is None or starts.operator != "Slice" or ends.operator != "Slice":
        return node
    reader = _Reader(producers, graph)
    whole = starts.inputs[0] == ends.inputs[0]
    skips_last = reader.bounds(starts) == (0, -1) or reader.starts_at_zero(starts)
    if not whole or not skips_last or reader.first(ends) != 1:
        return node
    inputs = (bag.table, bag.ids, starts.inputs[0], *([bag.weights] if bag.weights else []))
    return replace(node, operator=EMBEDDING_BAG, inputs=inputs, attributes={"mode": bag.mode})


class _Reader:
    """Reads the constants of a graph."""

    def __init__(self, producers: dict[str, Node], graph: OnnxGraph) -> None:
        self._producers, self._graph = producers, graph

    def constant(self, name: str) -> list[int] | None:
        """Return the whole numbers of a constant."""
        value = self._graph.initializers.get(name)
        node = self._producers.get(name)
        if value is None and node is not None and node.operator == "Constant":
            value = node.get("value")
        return None if not isinstance(value, np.ndarray) or value.dtype.kind not in "iu" else value.reshape(-1).tolist()

    def first(self, node: Node) -> int | None:
        """Return where a Slice of one axis starts."""
        starts = self.constant(node.inputs[1])
        return starts[0] if starts is not None and len(starts) == 1 else None

    def bounds(self, node: Node) -> tuple[int | None, int | None]:
        """Return where a Slice of one axis starts and ends."""
        ends = self.constant(node.inputs[2])
        return self.first(node), ends[0] if ends is not None and len(ends) == 1 else None

    def starts_at_zero(self, node: Node) -> bool:
        """Return whether a Slice begins at 0: a Loop reads no more starts than it has ends."""
        return self.first(node) == 0


def _read_body(body: OnnxGraph) -> _Bag | None:
    """Read the body of a Loop over bags; None for any other."""
    if len(body.outputs) != 2:
        return None
    producers = {name: node for node in body.nodes for name in node.outputs}
    step = body.inputs[0].name

    def made_by(name: str, *operators: str) -> Node | None:
        node = producers.get(name)
        return node if node is not None and node.operator in operators else None

    def position(name: str) -> str | None:
        """Return the vector of which `name` is the number of this bag."""
        node = made_by(name, "Unsqueeze", "Reshape")
        node = made_by(name if node is None else node.inputs[0], "Gather")
        return node.inputs[0] if node is not None and node.inputs[1] == step else None

    def sliced(name: str) -> tuple[str, str, str] | None:
        """Return what is sliced, and the vectors of starts and ends."""
        node = made_by(name, "Slice")
        ends = None if node is None else (position(node.inputs[1]), position(node.inputs[2]))
        return None if node is None or ends is None or None in ends else (node.inputs[0], *ends)  # type: ignore[return-value]

    reduced = made_by(body.outputs[1], *_MODES)
    if reduced is None or reduced.get("keepdims", 1):
        return None
    rows, weights = made_by(reduced.inputs[0], "Gather", "Mul"), None
    if rows is not None and rows.operator == "Mul":
        spread = made_by(rows.inputs[1], "Unsqueeze")
        weights = None if spread is None else sliced(spread.inputs[0])
        rows = None if weights is None else made_by(rows.inputs[0], "Gather")
    taken = None if rows is None or rows.get("axis", 0) else sliced(rows.inputs[1])
    if rows is None or taken is None or (weights is not None and weights[1:] != taken[1:]):
        return None
    ids, starts, ends = taken
    return _Bag(rows.inputs[0], ids, starts, ends, _MODES[reduced.operator], None if weights is None else weights[0])
