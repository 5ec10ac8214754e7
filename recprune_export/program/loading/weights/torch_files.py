"""Files of `torch.save` and of `pickle`, read without executing anything: the archive, the legacy form, a plain pickle.

`torch.load(weights_only=True)` reads archives that hold nothing but tensors and plain values, and comes first. Others, with a
pickled configuration or module with the tensors, and older forms go through `unpickle_inert`. Tensors are maps of the file.
"""

import io
import mmap
import warnings
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch

from recprune_export.program.loading.unlogged import unlogged
from recprune_export.program.loading.weights.inert_unpickler import (
    InertPickleError,
    Storage,
    find_dtype,
    unpickle_inert,
)
from recprune_export.program.mapped_archive import map_records
from recprune_export.training.mapped_weights import load_mapped

# The first number in files that torch.save wrote before version 1.6.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


def read_torch_file(path: Path) -> Any:
    """Return the content of a file of `torch.save` or `pickle.dump`; objects that are no tensors are inert.

    Raises `InertPickleError` and the unrelated classes of torch, zipfile and pickletools for a damaged file.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if not is_torch_zip(archive.infolist(), path.stat().st_size):
                raise InertPickleError("it is a zip archive not written by PyTorch")
        with (
            suppress(Exception),
            warnings.catch_warnings(),
            unlogged(),
        ):  # torch.load raises several classes for other than plain content
            warnings.simplefilter("ignore")
            return load_mapped(path)
    return read_inert(path)


def is_torch_zip(entries: Sequence[zipfile.ZipInfo], file_size: int) -> bool:
    """Return whether records of a zip are as torch writes them: uncompressed, unique relative names, no bytes in two records.

    Their content is never larger than the file.
    """
    names = {entry.filename for entry in entries}
    inside = all(not name.startswith("/") and ".." not in name.split("/") and "\\" not in name for name in names)
    stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
    return inside and stored and len(names) == len(entries) and sum(e.file_size for e in entries) <= file_size


def read_inert(path: Path) -> Any:
    """Return the content of a file only through `unpickle_inert`; the same errors as `read_torch_file`."""
    if zipfile.is_zipfile(path):
        return read_archive_record(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        stored = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
        return _read_pickle(content, stored)  # type: ignore[arg-type]  # a map can be read like a file


def read_archive_record(path: Path, name: str = "data.pkl", folder: str = "data") -> Any:
    """Return the content of one pickle of an archive, whose storages are the records in `folder`; the same errors."""
    records = map_records(path)
    with zipfile.ZipFile(path) as archive:
        whole = next(entry for entry in archive.namelist() if entry.partition("/")[2] == name)
        root = whole.partition("/")[0]
        order = f"{root}/byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise InertPickleError("its numbers are stored in big-endian order")
        if not is_torch_zip([archive.getinfo(whole)], path.stat().st_size):
            raise InertPickleError(f"its {name} is compressed, which PyTorch never does")
        content = archive.read(whole)

    def load_storage(identity: Any) -> Storage:
        _, storage_type, key, _, numel = identity
        return _cut(records.get(f"{root}/{folder}/{key}"), storage_type, numel)

    return unpickle_inert(io.BytesIO(content), load_storage)


def _cut(stored: torch.UntypedStorage | None, storage_type: Any, numel: Any) -> Storage:
    """Return the first `numel` numbers of stored bytes."""
    dtype = find_dtype(storage_type)
    if type(numel) is not int or numel < 0 or stored is None or numel * dtype.itemsize > stored.nbytes():
        raise InertPickleError(f"it declares {numel} numbers of {dtype}, but does not contain them")
    return Storage(stored[: numel * dtype.itemsize] if numel else torch.UntypedStorage(0), dtype)


def _read_pickle(file: IO[bytes], stored: torch.UntypedStorage) -> Any:
    """Read a plain pickle, or the five of the legacy form, from the start of `file`, whose bytes are `stored`."""
    first = unpickle_inert(file, _refuse_storage, _read_bytes)
    return first if first != LEGACY_MAGIC else _read_legacy(file, stored)


def _read_legacy(file: IO[bytes], stored: torch.UntypedStorage) -> Any:
    """Read the data after the magic number: version, system, content, keys of storages, and then the storages.

    The content is read twice, first with storages that have no bytes, since their positions follow from all of them.
    """
    unpickle_inert(file, _refuse_storage)
    unpickle_inert(file, _refuse_storage)
    start = file.tell()
    declared: dict[str, tuple[torch.dtype, int]] = {}

    def declare(identity: Any) -> Storage:
        _, storage_type, key, _, numel, *_ = identity
        dtype = find_dtype(storage_type)
        if type(numel) is not int or not 0 <= numel * dtype.itemsize <= stored.nbytes():
            raise InertPickleError(f"it declares {numel} numbers of {dtype}, more than the file contains")
        declared[str(key)] = (dtype, numel)
        return Storage(torch.UntypedStorage(numel * dtype.itemsize, device="meta"), dtype)

    unpickle_inert(file, declare)
    keys = unpickle_inert(file, _refuse_storage)
    storages: dict[str, Storage] = {}
    position = file.tell()
    for key in map(str, keys):
        dtype, _ = declared[key]
        file.seek(position)
        count = int.from_bytes(file.read(8), "little", signed=True)
        begin, position = position + 8, position + 8 + count * dtype.itemsize
        if count < 0 or position > stored.nbytes():
            raise InertPickleError("it is cut off")
        part = stored[begin:position] if count else torch.UntypedStorage(0)
        # A map may begin at any byte; numbers have to lie on multiples of their size.
        storages[key] = Storage(part if begin % dtype.itemsize == 0 else part.clone(), dtype)

    def load_storage(identity: Any) -> Storage:
        _, storage_type, key, _, numel, view = identity
        whole = storages[str(key)]
        if view is None:
            return _cut(whole.content, storage_type, numel)
        _, offset, length = view
        if not (type(offset) is int and type(length) is int and 0 <= offset <= offset + length <= numel):
            raise InertPickleError("it declares a part that is outside its storage")
        size = whole.dtype.itemsize
        return Storage(
            _cut(whole.content, storage_type, numel).content[offset * size : (offset + length) * size], whole.dtype
        )

    file.seek(start)
    return unpickle_inert(file, load_storage)


def _read_bytes(content: Any) -> Any:
    """Return the result of `torch.storage._load_from_bytes` for bytes inside a pickle: a storage, in the legacy form."""
    if not isinstance(content, bytes | bytearray) or not content:
        raise InertPickleError("it contains a storage without bytes")
    stored = torch.frombuffer(bytearray(content), dtype=torch.uint8).untyped_storage()
    file = io.BytesIO(content)
    if unpickle_inert(file, _refuse_storage) != LEGACY_MAGIC:
        raise InertPickleError("it contains a storage of an unknown form")
    return _read_legacy(file, stored)


def _refuse_storage(identity: Any) -> Storage:
    raise InertPickleError("it refers to numbers outside the pickle, which saved models do not do")
