"""Unpack a bundle into a temporary folder, only the files of its manifest.

Archives are untrusted. Only headers of 512 bytes are read: links, devices, long names and extended headers, which would be read into
memory, are refused. Names must be plain relative paths. The manifest comes first, and only files that it declares are written, with the
sizes that it declares.
"""

import json
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from recprune_export.bundle.archive.manifest_signature import SIGNATURE_BYTES
from recprune_export.bundle.archive.packing import BLOCK, SUFFIX, WINDOW, zstandard_module
from recprune_export.bundle.manifest.manifest import MANIFEST, MANIFEST_LIMIT, SIGNATURE, Manifest, check_name
from recprune_export.errors import BundleError, RecpruneError

MAX_BYTES = 64 << 30
_MAGIC = b"\x28\xb5\x2f\xfd"
_CHUNK = 1 << 20
_PADDING = 20 * BLOCK  # tar pads its last record


def is_packed(path: Path) -> bool:
    """Return whether a path is a file compressed by zstd."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


@contextmanager
def open_bundle_path(path: Path) -> Iterator[Path]:
    """Yield the folder of a bundle: `path` itself, or a temporary folder with the content of a packed bundle.

    Errors raised inside the block name the archive instead of the folder. Raises `BundleError` if the archive is not a packed
    bundle, is damaged, or has an entry that is not allowed.
    """
    if not is_packed(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="recprune-export-") as scratch:
        folder = Path(scratch).resolve() / path.name.removesuffix(SUFFIX)
        try:
            unpack(path, folder)
            yield folder
        except RecpruneError as error:
            raise type(error)(str(error).replace(str(folder), str(path))) from error


def unpack(archive: Path, folder: Path) -> None:
    """Extract a packed bundle into `folder`, which must not exist yet.

    Raises `BundleError`.
    """
    zstd = zstandard_module()
    folder.mkdir(parents=True)
    try:
        with archive.open("rb") as file:
            decompressor = zstd.ZstdDecompressor(max_window_size=1 << WINDOW)
            with decompressor.stream_reader(file, read_across_frames=True) as tar:
                _extract(_Tar(tar, archive), folder)
    except zstd.ZstdError as error:
        raise BundleError(f"{archive} is damaged ({error}): copy it again.") from error
    except OSError as error:
        raise BundleError(f"{archive} cannot be extracted: {error.strerror or type(error).__name__}.") from error


class _Tar:
    """Sequential reader of the entries of an archive."""

    def __init__(self, stream: IO[bytes], archive: Path) -> None:
        self._stream, self.archive = stream, archive
        self._folder: str | None = None

    def next(self) -> tuple[str, int] | None:
        """Return name (relative to the bundle's folder) and size of the next file; None at the end."""
        header = self._read(BLOCK)
        if not any(header):
            self._check_end()
            return None
        try:
            info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeError, ValueError) as error:
            raise BundleError(
                f"{self.archive} is not a packed bundle: it does not contain a plain tar archive."
            ) from error
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.linkname:
            raise self.make_entry_error(info.name, "is not a regular file")
        if not 0 <= info.size <= MAX_BYTES:
            raise self.make_entry_error(info.name, "has an invalid size")
        folder, _, name = info.name.partition("/")
        self._folder = folder if self._folder is None else self._folder
        if not name or folder != self._folder or folder in ("", ".", ".."):
            raise self.make_entry_error(info.name, "is not in the folder of the bundle")
        if name not in (MANIFEST, SIGNATURE):
            try:
                check_name(name)
            except BundleError as error:
                raise self.make_entry_error(info.name, "has a name that is not allowed in a bundle") from error
        return name, info.size

    def content(self, size: int) -> Iterator[bytes]:
        """Yield the content of the file that `next` returned."""
        remaining = size
        while remaining:
            chunk = self._read(min(remaining, _CHUNK))
            remaining -= len(chunk)
            yield chunk
        self._read(-size % BLOCK)

    def make_entry_error(self, name: str, why: str) -> BundleError:
        """Make the error for an entry that is not allowed."""
        return BundleError(f"{self.archive} is refused: its entry {name!r} {why}.")

    def _read(self, size: int) -> bytes:
        chunks = []
        while size:
            chunk = self._stream.read(size)
            if not chunk:
                raise BundleError(f"{self.archive} is truncated: copy it again.")
            chunks.append(chunk)
            size -= len(chunk)
        return b"".join(chunks)

    def _check_end(self) -> None:
        tail = bytearray()
        while len(tail) <= _PADDING and (chunk := self._stream.read(_PADDING)):
            tail += chunk
        if len(tail) < BLOCK:
            raise BundleError(f"{self.archive} is truncated: copy it again.")
        if len(tail) > _PADDING or any(tail):
            raise BundleError(f"{self.archive} is refused: it contains data after its end.")


def _extract(tar: _Tar, folder: Path) -> None:
    first = tar.next()
    if first is None or first[0] != MANIFEST:
        raise BundleError(f"{tar.archive} is not a packed bundle: its first entry is not {MANIFEST}.")
    if first[1] > MANIFEST_LIMIT:
        raise tar.make_entry_error(MANIFEST, f"has {first[1]:,} bytes, more than the limit of {MANIFEST_LIMIT:,}")
    text = b"".join(tar.content(first[1]))
    expected = _read_declared_sizes(tar.archive, text, folder)
    (folder / MANIFEST).write_bytes(text)
    while (entry := tar.next()) is not None:
        name, size = entry
        if expected.pop(name, None) != size:
            raise tar.make_entry_error(
                name, f"is not declared in {MANIFEST}, is present twice, or has a different size"
            )
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            for chunk in tar.content(size):
                file.write(chunk)
    missing = sorted(expected.keys() - {SIGNATURE})
    if missing:
        raise BundleError(f"{tar.archive} lacks {', '.join(repr(name) for name in missing)}: pack the bundle again.")


def _read_declared_sizes(archive: Path, text: bytes, folder: Path) -> dict[str, int]:
    """Return the size of each file that the manifest declares, by name."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} in {archive} is damaged (not JSON): copy the archive again.") from error
    try:
        manifest = Manifest.from_dict(values)
    except BundleError as error:
        raise BundleError(f"{archive} is not a bundle of this release: {error}") from error
    files: Mapping[str, int] = {name: entry.bytes for name, entry in manifest.files.items()}
    total, free = sum(files.values()), shutil.disk_usage(folder).free
    if total > min(MAX_BYTES, free):
        raise BundleError(
            f"{archive} declares {total:,} bytes, more than the {min(MAX_BYTES, free):,} bytes that are allowed or free in {folder.parent}."
        )
    return {**files, SIGNATURE: SIGNATURE_BYTES}
