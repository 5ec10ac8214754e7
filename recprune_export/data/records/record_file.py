"""`RecordFile`: encoded rows one after the other in an unnamed temporary file, read in order or at random positions.

The file has no name, so that no file remains after the process ends in any way. Other processes of the machine open it through the
process that wrote it, by `/proc`, if the system has it.
"""

import errno
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from recprune_export.errors import UsageError
from recprune_export.number_formats import format_bytes

_OPEN_FILES = Path("/proc/self/fd")


def can_share_files() -> bool:
    """Return whether other processes of this machine can open a `RecordFile`: on Linux, and not on macOS."""
    return _OPEN_FILES.is_dir()


@dataclass(frozen=True)
class RecordFile:
    """`count` records of `dtype` in an open file."""

    dtype: np.dtype
    count: int
    file: IO[bytes]

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordFile.attach, (self.dtype, self.count, self.path)

    @classmethod
    def attach(cls, dtype: np.dtype, count: int, path: str) -> "RecordFile":
        """Open the file of another process of this machine; it stays open when that process ends."""
        return cls(dtype, count, open(path, "rb", buffering=0))

    @property
    def path(self) -> str:
        """The path by which any process of this machine opens the file while this process runs, if it can (`can_share_files`)."""
        return f"/proc/{os.getpid()}/fd/{self.file.fileno()}"

    def map(self) -> np.ndarray:
        """Return all records as a memory map, whose pages are read on access."""
        if not self.count:
            return np.zeros(0, dtype=self.dtype)
        return np.memmap(self.file, dtype=self.dtype, mode="c", shape=(self.count,))

    def read(self, ranges: list[tuple[int, int]]) -> np.ndarray:
        """Return the records of some ranges [start, stop) one after the other."""
        records = np.empty(sum(stop - start for start, stop in ranges), dtype=self.dtype)
        content, position, size = records.view(np.uint8).data, 0, self.dtype.itemsize
        for start, stop in ranges:
            offset, end = start * size - position, position + (stop - start) * size
            while position < end:
                read = os.preadv(self.file.fileno(), [content[position:end]], offset + position)
                if not read:
                    raise OSError(errno.EIO, "the temporary file of rows ends too early")
                position += read
        return records


class RecordWriter:
    """Writes records of one dtype; `finish` returns the file."""

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype, self._count = dtype, 0
        self._file = tempfile.TemporaryFile(prefix="recprune-rows-")  # noqa: SIM115

    def write(self, records: np.ndarray) -> None:
        """Append records. Raises `UsageError` if the disk is full."""
        try:
            self._file.write(np.ascontiguousarray(records).view(np.uint8).data)
        except OSError as error:
            raise self._describe(error) from error
        self._count += len(records)

    def finish(self) -> RecordFile:
        """Return the written records. Raises `UsageError` if the disk is full."""
        try:
            self._file.flush()
        except OSError as error:
            raise self._describe(error) from error
        return RecordFile(self.dtype, self._count, self._file)

    def _describe(self, error: OSError) -> UsageError:
        written = f" after {format_bytes(self._count * self.dtype.itemsize)}" if self._count else ""
        return UsageError(
            f"The encoded rows cannot be written to {tempfile.gettempdir()}: {error.strerror}{written} "
            f"({self.dtype.itemsize} bytes a row). Set TMPDIR to a folder with more space."
        )
