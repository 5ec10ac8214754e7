"""Attention as one operator."""

import torch.nn.functional as F
from torch import Tensor

from recprune_export.program.loading.onnx_graphs.onnx_graph import Node
from recprune_export.program.loading.onnx_graphs.operator_table import operator
from recprune_export.program.loading.onnx_graphs.values import Value, as_tensor


@operator("Attention")
def attention(
    node: Node, query: Value, key: Value, value: Value, mask: Value | None = None, *past: Value | None
) -> Tensor:
    """`Attention(Q, K, V, mask)` of B×H×L×D, or of B×L×(H·D) with the number of heads among the attributes."""
    if any(entry is not None for entry in past) or any(node.outputs[1:]):
        raise node.refuse("goes on from an earlier request, or returns more than its result")
    if node.get("softcap", 0.0) or node.get("qk_matmul_output_mode", 0):
        raise node.refuse("bounds its scores")
    q, k, v = as_tensor(query), as_tensor(key), as_tensor(value)
    flat = q.ndim == 3
    if flat:
        heads, others = node.get("q_num_heads"), node.get("kv_num_heads")
        q, k, v = (x.unflatten(-1, (n, -1)).transpose(1, 2) for x, n in ((q, heads), (k, others), (v, others)))
    result = F.scaled_dot_product_attention(
        q, k, v, None if mask is None else as_tensor(mask), is_causal=bool(node.get("is_causal", 0)), scale=node.get("scale"),
        enable_gqa=q.shape[1] != k.shape[1],
    )  # fmt: skip
    return result.transpose(1, 2).flatten(2) if flat else result
