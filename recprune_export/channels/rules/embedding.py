"""Tables: rows are looked up, the dimension is a width."""

import torch
from torch import fx

from recprune_export.channels.tags import Labels
from recprune_export.channels.walk import Described, Walk, rule
from recprune_export.program.nodes import argument

aten = torch.ops.aten


@rule(aten.embedding.default)
def embedding(walk: Walk, node: fx.Node) -> Described:
    """`embedding(E: V×D, ids: B×F)`: B×F×D, where dimension d goes with column d of the table."""
    table, ids = walk.labels(node.args[0]), walk.labels(node.args[1])
    assert table is not None and ids is not None
    walk.look_up(node, table.removes[0], node.args[1])
    blank = ids.without_zeroes().zeroes
    return walk.of_fields(node, Labels((*ids.removes, *table.removes[1:]), (*blank, *table.zeroes[1:])))


@rule(aten.embedding_bag.padding_idx, aten.embedding_bag.default)
def embedding_bag(walk: Walk, node: fx.Node) -> Described:
    """`embedding_bag(E: V×D, ids: N, offsets: B)`: B×D, where dimension d goes with column d of the table."""
    table = walk.labels(argument(node, "weight"))
    assert table is not None
    walk.look_up(node, table.removes[0], argument(node, "indices"))
    weights = walk.labels(argument(node, "per_sample_weights"))
    if weights is not None:
        walk.freeze(node, weights.removes[0], "it weighs the bag's rows")
    nothing = walk.nothing(walk.env[node])
    assert isinstance(nothing, tuple)
    blank = torch.zeros(walk.env[node][0].shape[0], dtype=torch.int64)
    pooled = Labels((blank, table.removes[1]), (blank, table.zeroes[1]))
    return (pooled, *nothing[1:])
