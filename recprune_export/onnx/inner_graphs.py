"""The graphs in the attributes of nodes, such as the branches of an If and the body of a Loop."""

from collections.abc import Iterator

import onnx


def iterate_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and all graphs inside of it. ONNX gives their values other names than those outside."""
    yield graph
    for node in graph.node:
        for inner in list_inner_graphs(node):
            yield from iterate_graphs(inner)


def list_inner_graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs in the attributes of a node."""
    return [g for a in node.attribute for g in (*([a.g] if a.HasField("g") else []), *a.graphs)]
