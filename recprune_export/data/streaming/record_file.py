"""`RecordFile`: encoded rows one after the other in an unnamed temporary file, read in order or at random places.

The file has no name, so that nothing is left when the process ends, however it ends. Other processes of the machine read it
through the process that wrote it.
"""

import errno
import os
import tempfile
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from recprune_export.errors import UsageError
from recprune_export.number_formats import format_bytes


@dataclass(frozen=True)
class RecordFile:
    """`count` records of `dtype` in the file that the process `owner` has open as `descriptor`."""

    dtype: np.dtype
    count: int
    owner: int
    descriptor: int
    handle: IO[bytes] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordFile.attach, (self.dtype, self.count, self.path)

    @classmethod
    def attach(cls, dtype: np.dtype, count: int, path: str) -> "RecordFile":
        """Open the file of another process of this machine; it stays open when that process ends."""
        file = open(path, "rb", buffering=0)  # noqa: SIM115
        return cls(dtype, count, os.getpid(), file.fileno(), file)

    @property
    def path(self) -> str:
        """The path by which any process of this machine opens the file while its owner lives."""
        return f"/proc/{self.owner}/fd/{self.descriptor}"

    def map(self) -> np.ndarray:
        """Return all records, mapped: pages are read where they are looked at."""
        if not self.count:
            return np.zeros(0, dtype=self.dtype)
        return np.memmap(self.path, dtype=self.dtype, mode="c", shape=(self.count,))

    def read(self, ranges: list[tuple[int, int]]) -> np.ndarray:
        """Return the records of some ranges [start, stop) one after the other."""
        records = np.empty(sum(stop - start for start, stop in ranges), dtype=self.dtype)
        content, position, size = records.view(np.uint8).data, 0, self.dtype.itemsize
        with open(self.path, "rb", buffering=0) as file:
            for start, stop in ranges:
                end = position + (stop - start) * size
                file.seek(start * size)
                while position < end:
                    read = file.readinto(content[position:end])
                    if not read:
                        raise OSError(errno.EIO, "the temporary file of rows is truncated")
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
        return RecordFile(self.dtype, self._count, os.getpid(), self._file.fileno(), self._file)

    def _describe(self, error: OSError) -> UsageError:
        written = format_bytes(self._count * self.dtype.itemsize)
        return UsageError(
            f"The encoded rows cannot be written to {tempfile.gettempdir()}: {error.strerror} after {written} "
            f"({self.dtype.itemsize} bytes per row). Set TMPDIR to a folder with more space."
        )
