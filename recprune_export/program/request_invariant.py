"""What no request decides: constants and parameters, what is computed from them, and what of a request reads it."""

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
    steady: dict[fx.Node, None] = {}
    for node in module.graph.nodes:
        computed = node.op == "call_function" and node.all_input_nodes
        if node.op == "get_attr" or (computed and all(source in steady for source in node.all_input_nodes)):
            steady[node] = None
    return steady


def find_varying_readers(node: fx.Node, invariant: dict[fx.Node, None]) -> list[tuple[fx.Node, fx.Node]]:
    """Return what of the request reads a steady node, as it is or moved about: pairs of what is read and the reader."""
    pending, seen, found = [node], {node}, []
    while pending:
        source = pending.pop()
        for user in source.users:
            if user not in invariant:
                found.append((source, user))
            elif user not in seen and (user.target in DATA_MOVEMENT_OPERATORS or user.target is operator.getitem):
                seen.add(user)
                pending.append(user)
    return found
