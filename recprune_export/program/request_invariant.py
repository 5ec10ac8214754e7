"""Request-invariant nodes: constants, parameters and values computed only from them, and the nodes that read them."""

import operator

import torch
from torch import fx

from recprune_export.program.view_operators import DATA_MOVEMENT_OPERATORS

aten = torch.ops.aten

ROW_LOOKUPS = frozenset(
    {
        aten.embedding.default,
        aten.embedding_bag.padding_idx,
        aten.embedding_bag.default,
        aten.index.Tensor,
        aten.index_select.default,
    }
)


def find_request_invariant_nodes(module: fx.GraphModule) -> dict[fx.Node, None]:
    """Return the nodes that are the same for every request, in order."""
    invariant: dict[fx.Node, None] = {}
    for node in module.graph.nodes:
        computed = node.op == "call_function" and node.all_input_nodes
        if node.op == "get_attr" or (computed and all(source in invariant for source in node.all_input_nodes)):
            invariant[node] = None
    return invariant


def find_varying_readers(node: fx.Node, invariant: dict[fx.Node, None]) -> list[tuple[fx.Node, fx.Node]]:
    """Return the request-dependent readers of an invariant node or of its views, as pairs (value read, reader)."""
    pending, visited, readers = [node], {node}, []
    while pending:
        source = pending.pop()
        for user in source.users:
            if user not in invariant:
                readers.append((source, user))
            elif user not in visited and (user.target in DATA_MOVEMENT_OPERATORS or user.target is operator.getitem):
                visited.add(user)
                pending.append(user)
    return readers
