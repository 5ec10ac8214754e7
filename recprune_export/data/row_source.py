"""`RowSource`: rows that are read batch by batch, in memory or from files."""

from collections.abc import Iterator
from typing import Protocol

from recprune_export.data.rows import Rows

BATCH_ROWS = 1 << 16  # the size of batches for work without a model


class RowSource(Protocol):
    """Examples that are read in batches; `Rows` are those in memory. Code that takes a `RowSource` never holds all of them."""

    def __len__(self) -> int:
        """The number of rows, those of all ranks."""
        ...

    def batches(self, size: int, seed: int | None = None, *, rank: int = 0, world_size: int = 1) -> Iterator[Rows]:
        """Yield batches of `size` rows, the last one shorter: in order, or shuffled by `seed`.

        With several processes, each takes its rows of every batch: the rows of all ranks together are the batch of `size` rows. The same
        seed gives the same batches.
        """
        ...

    def sample(self, count: int, seed: int) -> Rows:
        """Return `count` rows drawn without replacement, or all if there are fewer."""
        ...
