"""Embedding tables: rows are looked up and frozen, dimensions are channels."""

import torch
from torch import fx

from recprune_export.channels.tags import TensorTags
from recprune_export.channels.walk import NodeTags, Walk, rule
from recprune_export.program.nodes import argument

aten = torch.ops.aten


@rule(aten.embedding.default)
def embedding(walk: Walk, node: fx.Node) -> NodeTags:
    """`embedding(E: V×D, ids: B×F)`: B×F×D, where dimension d has the tags of column d of the table."""
    table, ids = walk.tags(node.args[0]), walk.tags(node.args[1])
    assert table is not None and ids is not None
    walk.mark_lookup(node, table.removed_by[0], node.args[1])
    no_zeros = ids.without_zero_tags().zero_when_masked
    return walk.add_field_tags(
        node, TensorTags((*ids.removed_by, *table.removed_by[1:]), (*no_zeros, *table.zero_when_masked[1:]))
    )


@rule(aten.embedding_bag.padding_idx, aten.embedding_bag.default)
def embedding_bag(walk: Walk, node: fx.Node) -> NodeTags:
    """`embedding_bag(E: V×D, ids: N, offsets: B)`: B×D, where dimension d has the tags of column d of the table."""
    table = walk.tags(argument(node, "weight"))
    assert table is not None
    walk.mark_lookup(node, table.removed_by[0], argument(node, "indices"))
    weights = walk.tags(argument(node, "per_sample_weights"))
    if weights is not None:
        walk.freeze(node, weights.removed_by[0], "it weights the rows of the bag")
    untagged = walk.make_untagged(walk.env[node])
    assert isinstance(untagged, tuple)
    no_tags = torch.zeros(walk.env[node][0].shape[0], dtype=torch.int64)
    pooled = TensorTags((no_tags, table.removed_by[1]), (no_tags, table.zero_when_masked[1]))
    return (pooled, *untagged[1:])
