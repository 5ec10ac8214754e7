"""`BatchesOnly`: rows that offer nothing but the protocol `RowSource`, as rows that are read from files."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from recprune_export.data import ArrayData, Rows
from recprune_export.data.row_source import RowSource
from recprune_export.metrics import row_arrays


class BatchesOnly:
    """Rows of which a consumer sees batches, samples and their number."""

    def __init__(self, rows: RowSource) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def batches(self, size: int, seed: int | None = None, *, rank: int = 0, world_size: int = 1) -> Iterator[Rows]:
        """Yield batches."""
        return self._rows.batches(size, seed, rank=rank, world_size=world_size)

    def sample(self, count: int, seed: int) -> Rows:
        """Return some rows."""
        return self._rows.sample(count, seed)


def in_batches_only(data: ArrayData) -> ArrayData:
    """Return the same splits as sources of batches."""
    return replace(data, **{name: BatchesOnly(getattr(data, name)) for name in ("train", "valid", "test")})


@contextmanager
def few_rows_in_memory(rows: int = 3, piece: int = 5) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_arrays, "MEMORY_ROWS", rows)
        patch.setattr(row_arrays, "PIECE_ROWS", piece)
        yield
