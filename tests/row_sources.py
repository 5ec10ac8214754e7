"""`BatchesOnly`: rows that offer nothing but the protocol `RowSource`, as rows that are read from files."""

from collections.abc import Iterator

from recprune_export.data import Rows


class BatchesOnly:
    """Rows of which a consumer sees batches, samples and their number."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def batches(self, size: int, seed: int | None = None, *, rank: int = 0, world_size: int = 1) -> Iterator[Rows]:
        """Yield batches."""
        return self._rows.batches(size, seed, rank=rank, world_size=world_size)

    def sample(self, count: int, seed: int) -> Rows:
        """Return some rows."""
        return self._rows.sample(count, seed)
