"""`StreamedRows`: encoded rows in a file, read window by window; memory does not grow with their number."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recprune_export.data.records.read_windows import read_windows
from recprune_export.data.records.record_file import RecordFile
from recprune_export.data.records.shuffled_windows import WINDOW_BYTES, Window, shuffle_in_windows
from recprune_export.data.rows import Rows

_GROUP, _WEIGHT = "group", "weight"
_FEWEST_ROWS = 1024  # the fewest rows of a window, even if rows are long


@dataclass(frozen=True)
class RowLayout:
    """How rows are in records: the dtype and shape of each input, the labels, and whether there are weights and groups.

    Ids, that is int64 inputs named in `narrow`, take 4 bytes in the file.
    """

    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    labels: tuple[str, ...]
    has_weights: bool = False
    has_groups: bool = False
    narrow: frozenset[str] = frozenset()

    @property
    def dtype(self) -> np.dtype:
        """The dtype of a record."""
        fields: list[Any] = [
            (f"input {name}", "int32" if name in self.narrow else dtype, shape)
            for name, (dtype, shape) in self.inputs.items()
        ]
        fields += [(f"label {name}", "float32") for name in self.labels]
        fields += [(_WEIGHT, "float32")] if self.has_weights else []
        fields += [(_GROUP, "int64")] if self.has_groups else []
        return np.dtype(fields)

    def pack(self, rows: Rows) -> np.ndarray:
        """Return rows as records."""
        records = np.empty(len(rows), dtype=self.dtype)
        for name in self.inputs:
            records[f"input {name}"] = rows.inputs[name]
        for name in self.labels:
            records[f"label {name}"] = rows.labels[name]
        if rows.weights is not None:
            records[_WEIGHT] = rows.weights
        if rows.groups is not None:
            records[_GROUP] = rows.groups
        return records

    def unpack(self, records: np.ndarray) -> Rows:
        """Return records as rows, with a separate array for each field."""
        return Rows(
            {name: records[f"input {name}"].astype(dtype) for name, (dtype, _) in self.inputs.items()},
            {name: np.ascontiguousarray(records[f"label {name}"]) for name in self.labels},
            weights=np.ascontiguousarray(records[_WEIGHT]) if self.has_weights else None,
            groups=np.ascontiguousarray(records[_GROUP]) if self.has_groups else None,
        )

    def view(self, records: np.ndarray) -> dict[str, Any]:
        """Return the fields of `Rows` as views of records; narrow ids stay int32."""
        return {
            "inputs": {name: records[f"input {name}"] for name in self.inputs},
            "labels": {name: records[f"label {name}"] for name in self.labels},
            "weights": records[_WEIGHT] if self.has_weights else None,
            "groups": records[_GROUP] if self.has_groups else None,
        }


@dataclass(frozen=True)
class StreamedRows(Rows):
    """Rows in a file. `batches` and `sample` read a part of it; `inputs`, `labels`, `weights` and `groups` are mapped.

    A shuffled epoch reads windows of many blocks from all over the file, each in random order
    (`shuffled_windows.py`); the next window is read while one is used, by a thread or by `readers` processes. Neither
    these nor the number of ranks changes the order. A copy in another process reads the same file.
    """

    file: RecordFile | None = None
    layout: RowLayout | None = None
    readers: int = 0
    window_bytes: int = WINDOW_BYTES

    @classmethod
    def open(
        cls, file: RecordFile, layout: RowLayout, readers: int = 0, window_bytes: int = WINDOW_BYTES
    ) -> "StreamedRows":
        """Return the rows of a file."""
        return cls(**layout.view(file.map()), file=file, layout=layout, readers=readers, window_bytes=window_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return StreamedRows.open, (self.file, self.layout, 0, self.window_bytes)

    def __len__(self) -> int:
        return self._file.count

    def with_readers(self, readers: int) -> "StreamedRows":
        """Return the same rows, read by `readers` processes."""
        return replace(self, readers=readers)

    def take(self, indices: np.ndarray) -> Rows:
        """Return the rows at `indices`, in memory."""
        return self._layout.unpack(self._file.map()[indices])

    def sample(self, count: int, seed: int) -> Rows:
        """Return `count` rows drawn without replacement, or all if there are fewer; the rows that `Rows` draws if there are few.

        Time and memory: those of the sample.
        """
        if len(self) <= self.window_rows:
            return super().sample(count, seed)
        chosen = np.random.default_rng(seed).choice(len(self), min(count, len(self)), replace=False, shuffle=False)
        return self.take(np.sort(chosen))

    def batches(self, size: int, seed: int | None = None, *, rank: int = 0, world_size: int = 1) -> Iterator[Rows]:
        """Yield batches of `size` rows, the last one shorter; shuffled in windows if a seed is given.

        The process `rank` of `world_size` gets every `world_size`-th row of each batch. Raises `DataError` if a reader process ends
        early.
        """
        rest = np.empty(0, dtype=self._file.dtype)
        for records in read_windows(self, seed, self.readers):
            records = np.concatenate([rest, records]) if len(rest) else records
            whole = len(records) // size * size
            for start in range(0, whole, size):
                yield self._layout.unpack(records[start : start + size][rank::world_size])
            rest = records[whole:].copy()
        if len(rest):
            yield self._layout.unpack(rest[rank::world_size])

    @property
    def record_dtype(self) -> np.dtype:
        """The dtype of a row in the file."""
        return self._file.dtype

    @property
    def window_rows(self) -> int:
        """The number of rows of a window."""
        return max(self.window_bytes // self._file.dtype.itemsize, _FEWEST_ROWS)

    def epoch_windows(self, seed: int | None) -> Iterator[Window]:
        """Return the windows of an epoch."""
        return shuffle_in_windows(len(self), self.window_rows, seed)

    def read_window(self, window: Window) -> np.ndarray:
        """Return the records of a window in its order."""
        records = self._file.read(window.ranges)
        if window.order is None:
            return records
        raw = records.view(f"V{records.dtype.itemsize}")  # copied whole, not field by field
        return raw[window.order].view(records.dtype)

    @property
    def _file(self) -> RecordFile:
        assert self.file is not None
        return self.file

    @property
    def _layout(self) -> RowLayout:
        assert self.layout is not None
        return self.layout
