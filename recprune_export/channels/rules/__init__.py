"""Channel rules of operators, one file per family. Importing this package registers all of them."""

from recprune_export.channels.rules import (
    attention,
    contraction,
    convolution,
    creation,
    data_movement,
    elementwise,
    embedding,
    indexing,
    normalization,
    recurrent,
    reduction,
)

__all__ = [
    "attention",
    "contraction",
    "convolution",
    "creation",
    "data_movement",
    "elementwise",
    "embedding",
    "indexing",
    "normalization",
    "recurrent",
    "reduction",
]
