"""Scaled dot-product attention."""

import torch
from torch import fx

from recprune_export.channels.rules.contraction import contract
from recprune_export.channels.walk import NodeTags, Walk, rule
from recprune_export.program.nodes import argument

aten = torch.ops.aten


@rule(aten.scaled_dot_product_attention.default)
def attention(walk: Walk, node: fx.Node) -> NodeTags:
    """`attention(q: B×H×L×E, k: B×H×S×E, v: B×H×S×V)`: E is removed from queries and keys, V from the values.

    The scale is 1/√E with the original E; see Vaswani et al., "Attention Is All You Need", section 3.2.1.
    """
    query, key, value = (walk.tags(argument(node, name)) for name in ("query", "key", "value"))
    mask = walk.tags(argument(node, "attn_mask"))
    assert query is not None and key is not None and value is not None
    rank = len(query.shape)
    outer = [("batch", position) for position in range(rank - 2)]
    scores = contract(walk, node, [([*outer, "l", "e"], query), ([*outer, "s", "e"], key)], [*outer, "l", "s"])
    weights = scores.without_zero_tags()
    walk.freeze(node, weights.removed_by[-1], "attention is computed over it")
    if mask is not None:
        for axis in mask.removed_by:
            walk.freeze(node, axis, "it masks attention")
    return contract(walk, node, [([*outer, "l", "s"], weights), ([*outer, "s", "v"], value)], [*outer, "l", "v"])
