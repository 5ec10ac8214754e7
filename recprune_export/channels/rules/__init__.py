"""One rule per operator, a file per family. Importing this package registers them all."""

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
