"""Tables: rows are looked up, the dimension is a width."""

import torch
from torch import fx

from recprune_export.channels.labels import Labels
from recprune_export.channels.walk import Described, Walk, rule

aten = torch.ops.aten


@rule(aten.embedding.default)
def embedding(walk: Walk, node: fx.Node) -> Described:
    """`embedding(E: V×D, ids: B×F)`: B×F×D, where dimension d goes with column d of the table."""
    table, ids = walk.labels(node.args[0]), walk.labels(node.args[1])
    assert table is not None and ids is not None
    walk.freeze(node, table.removes[0], "its rows are looked up by id")
    return Labels((*ids.removes, table.removes[1]), (*ids.without_zeroes().zeroes, table.zeroes[1]))
