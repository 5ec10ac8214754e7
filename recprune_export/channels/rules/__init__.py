"""Channel rules of operators, one file per family. Importing this package registers all of them."""

from recprune_export.channels.rules import (  # noqa: F401
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
