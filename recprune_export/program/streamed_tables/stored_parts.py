"""`StoredParts`: a table whose rows and columns are divided among files, read by slices and by ids."""

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recprune_export.errors import ModelFileError
from recprune_export.mapped_pages import limit_mapped_pages, register_map
from recprune_export.program.streamed_tables.table_rows import TableRows

_LOOKUPS = 1 << 12  # the number of lookups after which mapped pages are counted; one fault maps up to 64 KiB


@dataclass(frozen=True)
class StoredPart:
    """A box of a table, row after row, whose numbers begin at byte `start` of `file`."""

    file: Path
    start: int
    row: int
    column: int
    rows: int
    columns: int


class StoredParts(TableRows):
    """The rows of a table that consists of parts, each number in exactly one part.

    Slices are read from the files. Ids are looked up in read-only maps of the files, which count neither as memory nor toward a limit of
    data segments; the pages that lookups map are released (`mapped_pages.py`).
    """

    def __init__(self, name: str, shape: tuple[int, int], dtype: torch.dtype, parts: Sequence[StoredPart]) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype
        self._parts = sorted((p for p in parts if p.rows and p.columns), key=lambda part: (part.row, part.column))
        self._maps: dict[Path, mmap.mmap] = {}

    def read(self, start: int, stop: int) -> Tensor:
        result = torch.empty(max(0, stop - start), self.shape[1], dtype=self.dtype)
        for part in self._parts:
            first, last = max(start, part.row), min(stop, part.row + part.rows)
            if first < last:
                rows = result[first - start : last - start]
                if part.columns == self.shape[1]:
                    self._read_rows(part, first - part.row, rows)
                else:
                    narrow = torch.empty(last - first, part.columns, dtype=self.dtype)
                    self._read_rows(part, first - part.row, narrow)
                    rows[:, part.column : part.column + part.columns] = narrow
        return result

    def _read_rows(self, part: StoredPart, first: int, rows: Tensor) -> None:
        """Read rows of a part, from its row `first` on, into a contiguous tensor."""
        content = rows.view(torch.uint8).reshape(-1).numpy().data
        with part.file.open("rb", buffering=0) as file:
            file.seek(part.start + first * part.columns * self.dtype.itemsize)
            done = 0
            while done < len(content):
                count = file.readinto(content[done:])
                if not count:
                    raise ModelFileError(f"{part.file} was truncated while '{self.name}' was read: copy it again.")
                done += count

    def gather(self, ids: Tensor) -> Tensor:
        result = torch.empty(len(ids), self.shape[1], dtype=self.dtype)
        for some_ids, rows in zip(ids.split(_LOOKUPS), result.split(_LOOKUPS), strict=True):
            self._gather(some_ids, rows)
            limit_mapped_pages()
        return result

    def _gather(self, ids: Tensor, result: Tensor) -> None:
        """Write the rows of `ids` to `result`."""
        for part in self._parts:
            places = ((ids >= part.row) & (ids < part.row + part.rows)).nonzero().squeeze(1)
            if len(places):
                found = self._map(part)[(ids[places] - part.row).numpy()]
                rows = torch.from_numpy(found).view(self.dtype)
                result[places, part.column : part.column + part.columns] = rows

    def _map(self, part: StoredPart) -> np.ndarray:
        """Return the bytes of a part, [rows, bytes of a row]."""
        if part.file not in self._maps:
            with part.file.open("rb") as file:
                self._maps[part.file] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            register_map(self._maps[part.file], str(part.file.parent))
        row_bytes = part.columns * self.dtype.itemsize
        content = np.frombuffer(self._maps[part.file], np.uint8, part.rows * row_bytes, part.start)
        return content.reshape(part.rows, row_bytes)
