"""Checks of outputs before a long job, and optional outputs, whose failure does not affect the result."""

import contextlib
import errno
import os
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from recprune_export.errors import UsageError
from recprune_export.progress import print_warning

if TYPE_CHECKING:
    import numpy as np

BLOCK = 4096


def check_output_file(path: Path, *, replaced: bool = True) -> None:
    """Raise `UsageError` if no file can be written to `path`. No file remains, and missing folders are not created.

    A file that is `replaced` by a new one must be a plain file; otherwise a device or a pipe may be written as well.
    """
    try:
        if path.is_dir():
            raise UsageError(f"{path} cannot be written: it is a directory; give a file.")
        if path.exists() and not path.is_file() and replaced:
            raise UsageError(f"{path} cannot be written: it is a device or a pipe; give a file.")
        if path.exists() and not replaced:
            if not os.access(path, os.W_OK):
                raise UsageError(f"{path} cannot be written: {os.strerror(errno.EACCES)}.")
            return
        _write_block(find_existing_folder(path))
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error


def find_existing_folder(path: Path) -> Path:
    """Return the nearest existing folder above `path`. Raises `UsageError` if a file is in the way."""
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise UsageError(f"{path} cannot be written: {parent} is a file, not a folder.")
    return parent


def make_sibling_path(path: Path, suffix: str = ".partial") -> Path:
    """Return an unused hidden path next to `path`, for a file that is moved to `path` when it is complete."""
    return path.parent / f".{path.name}.{uuid.uuid4().hex[:12]}{suffix}"


def check_free_space(needs: Mapping[Path, int], content: str) -> None:
    """Raise `UsageError` if a file system has less free space than the sum of the lower bounds in bytes for its paths.

    `content` describes the output.
    """
    least_bytes: dict[int, int] = {}
    for path, size in needs.items():
        folder = find_existing_folder(path)
        device = folder.stat().st_dev
        least_bytes[device] = least_bytes.get(device, 0) + size
        free = shutil.disk_usage(folder).free
        if free < least_bytes[device]:
            raise UsageError(
                f"{folder} has {free / 1e6:,.1f} MB of free space, but {content} takes at least "
                f"{least_bytes[device] / 1e6:,.1f} MB there: free some space, choose another place with -o, or set TMPDIR for "
                "temporary files."
            )


class ScratchFolder:
    """A new folder for temporary files, which is removed with this object and at the end of the process."""

    def __init__(self, prefix: str = "recprune-") -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def reserve_temporary_file(size: int) -> BinaryIO | None:
    """Return an unnamed temporary file of `size` bytes, which is deleted when it is neither open nor mapped.

    None if its disk has no space, or if space cannot be reserved, as on macOS and Windows: writing to a mapped page without space would
    end the process.
    """
    if not hasattr(os, "posix_fallocate"):
        return None
    file = None
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
        os.posix_fallocate(file.fileno(), 0, size)
    except OSError:
        if file is not None:
            file.close()
        return None
    return file


def map_temporary_file(size: int) -> "np.ndarray | None":
    """Return `size` zeros, uint8, in an unnamed, memory-mapped temporary file; None if none can be reserved or mapped."""
    import numpy as np

    file = reserve_temporary_file(size)
    if file is None:
        return None
    with file:
        try:
            return np.memmap(file, np.uint8, "r+", shape=(size,))
        except OSError:
            return None


def find_write_error(error: BaseException) -> OSError | None:
    """Return the error of the file system behind `error`, None if there is none.

    `torch.save` raises a `RuntimeError` about positions in the file while it handles the `OSError` with the reason.
    """
    link: BaseException | None = error
    while link is not None and not isinstance(link, OSError):
        link = link.__cause__ or link.__context__
    return link


@contextlib.contextmanager
def optional_output(description: str) -> Iterator[None]:
    """Print a warning instead of raising the error if the block fails to write: the result does not depend on it."""
    try:
        yield
    except (OSError, UsageError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        print_warning(f"{description} was not written: {reason.rstrip('.')}.")


def _write_block(folder: Path) -> None:
    """Write, flush and remove a file: a full disk accepts names but no content."""
    descriptor, name = tempfile.mkstemp(prefix=".recprune-export-", dir=folder)
    try:
        os.write(descriptor, bytes(BLOCK))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
        os.unlink(name)
