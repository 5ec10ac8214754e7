"""Operators of ONNX by PyTorch's, one file per family. Importing this package registers all of them."""

from recprune_export.program.loading.onnx_graphs.operators import (
    attention_operator,
    elementwise_operators,
    known_operators,
    layer_operators,
    lookup_operators,
    movement_operators,
    norm_operators,
    product_operators,
    reduction_operators,
    sequence_operators,
)

__all__ = [
    "attention_operator",
    "elementwise_operators",
    "known_operators",
    "layer_operators",
    "lookup_operators",
    "movement_operators",
    "norm_operators",
    "product_operators",
    "reduction_operators",
    "sequence_operators",
]
