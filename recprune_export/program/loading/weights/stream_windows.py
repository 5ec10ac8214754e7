"""Locate the numbers of a tensor that `torch.save` wrote into a part of a larger file, without reading them."""

import io
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recprune_export.errors import ModelFileError
from recprune_export.program.loading.weights.inert_unpickler import Storage, find_dtype, unpickle_inert

_LOCAL_HEADER = 30  # bytes, before the name of a record and its extra field, whose lengths are the last two numbers


def locate_numbers(file: Path, start: int, length: int, shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Return the byte of `file` at which the numbers of a tensor begin, row after row.

    The stream at `start`, `length` bytes long, is an archive of `torch.save`, of which only the description of the tensor is
    read; nothing in it is executed.

    Raises `ModelFileError` if it holds something else, a compressed record or another order of the numbers, and the
    errors of `zipfile` and of `unpickle_inert` for a damaged one.
    """
    stored: list[zipfile.ZipInfo] = []
    with FileWindow(file, start, length) as window, zipfile.ZipFile(window) as archive:
        entries = {entry.filename.partition("/")[2]: entry for entry in archive.infolist()}
        if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
            raise ModelFileError(
                f"{file} contains numbers in big-endian order: save the checkpoint on a little-endian machine."
            )

        def load_storage(identity: Any) -> Storage:
            _, storage_type, key, _, numel = identity
            entry = entries[f"data/{key}"]
            declared = find_dtype(storage_type)
            if type(numel) is not int or numel * declared.itemsize > entry.file_size:
                raise ModelFileError(f"{file} declares more numbers than it contains: copy it again.")
            stored.append(entry)
            return Storage(torch.UntypedStorage(numel * declared.itemsize, device="meta"), declared)

        tensor = unpickle_inert(io.BytesIO(archive.read(entries["data.pkl"])), load_storage)
        if not isinstance(tensor, Tensor) or (tuple(tensor.shape), tensor.dtype) != (shape, dtype) or len(stored) != 1:
            raise ModelFileError(f"{file} does not contain a tensor of shape {list(shape)}: copy it again.")
        if stored[0].compress_type != zipfile.ZIP_STORED or not tensor.is_contiguous():
            raise ModelFileError(
                f"{file} contains numbers in a form that cannot be read by rows: save the checkpoint again."
            )
        window.seek(stored[0].header_offset)
        header = window.read(_LOCAL_HEADER)
        begin = start + stored[0].header_offset + _LOCAL_HEADER + sum(struct.unpack("<HH", header[-4:]))
        offset = begin + int(tensor.storage_offset()) * dtype.itemsize
        if offset + tensor.nbytes > start + length:
            raise ModelFileError(f"{file} is truncated: copy it again.")
        return offset


class FileWindow(io.BufferedReader):
    """The bytes of a file from `start` on, `length` of them, as a file."""

    def __init__(self, path: Path, start: int, length: int) -> None:
        super().__init__(_RawWindow(path, start, length))


class _RawWindow(io.RawIOBase):
    def __init__(self, path: Path, start: int, length: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._start, self._length, self._position = start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        if base + offset < 0:
            raise OSError("a position before the start")
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), max(0, self._length - self._position))
        self._file.seek(self._start + self._position)
        count = self._file.readinto(memoryview(buffer)[:wanted]) if wanted else 0
        self._position += count or 0
        return count or 0

    def close(self) -> None:
        self._file.close()
        super().close()
