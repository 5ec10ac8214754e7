"""`EmbeddingBag` as PyTorch's exporter writes it: a Loop over the bags, each of which is looked up and reduced by itself."""

from dataclasses import dataclass, replace

from recprune_export.program.loading.onnx_graphs.onnx_graph import Node, OnnxGraph

# No operator of ONNX; it takes the table, the ids, the offsets with the end of the last bag, and weights of the ids.
EMBEDDING_BAG = "EmbeddingBag"
_TO_THE_END = (1 << 31) - 1
MODES = {"ReduceSum": "sum", "ReduceMean": "mean", "ReduceMax": "max"}


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

    Before: a Loop whose body takes `Slice(ids, starts[i], ends[i])`, looks up its rows and reduces them, where `ends` is
    `starts[1:]`, one turn for each end. After: `EmbeddingBag(table, ids, starts)`.
    """
    producers = graph.find_producers()
    return replace(graph, nodes=tuple(_replace(node, producers, graph) for node in graph.nodes))


def _replace(node: Node, producers: dict[str, Node], graph: OnnxGraph) -> Node:
    body = node.get("body")
    if node.operator != "Loop" or not isinstance(body, OnnxGraph) or len(node.inputs) != 2 or len(node.outputs) != 1:
        return node
    bag = _read_body(body)
    if bag is None:
        return node
    ends = producers.get(bag.ends)
    if ends is None or ends.operator != "Slice" or ends.inputs[0] != bag.starts or not _skips_first(ends, graph):
        return node
    if not _counts(producers.get(node.inputs[0]), bag.ends, producers):
        return node
    inputs = (bag.table, bag.ids, bag.starts, *([bag.weights] if bag.weights else []))
    return replace(node, operator=EMBEDDING_BAG, inputs=inputs, attributes={"mode": bag.mode})


def _skips_first(node: Node, graph: OnnxGraph) -> bool:
    """Return whether a Slice is `x[1:]`."""
    starts, ends = (graph.initializers.get(name) for name in node.inputs[1:3])
    return starts is not None and ends is not None and starts.tolist() == [1] and ends.reshape(-1)[0] >= _TO_THE_END


def _counts(node: Node | None, vector: str, producers: dict[str, Node]) -> bool:
    """Return whether a node takes the number of entries of a vector, `Gather(Shape(vector), 0)`."""
    source = (
        None if node is None or node.operator not in ("Gather", "Squeeze", "Slice") else producers.get(node.inputs[0])
    )
    return source is not None and source.operator == "Shape" and source.inputs[0] == vector


def _read_body(body: OnnxGraph) -> _Bag | None:
    """Read the body of a Loop over bags; None for any other."""
    if len(body.outputs) != 2:
        return None
    producers = body.find_producers()
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

    reduced = made_by(body.outputs[1], *MODES)
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
    return _Bag(rows.inputs[0], ids, starts, ends, MODES[reduced.operator], None if weights is None else weights[0])
