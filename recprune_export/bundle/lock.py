"""One writer for each target: a lock file beside it, which the system frees when its holder ends, however it ends."""

import contextlib
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from recprune_export.errors import UsageError

_held = threading.local()  # paths that this thread holds: the main job holds its target while a bundle is written to it


@contextlib.contextmanager
def hold_write_lock(target: Path) -> Iterator[None]:
    """Be the only one who writes to `target` inside the block; its parent must be there.

    Raises `UsageError`, which names the other process, where somebody else is. On a file system that knows no locks nothing
    is held.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, hold_write_lock(Path(folder) / "bundle"):
    ...     [path.name for path in Path(folder).iterdir()]
    ['.bundle.lock']
    """
    path = lock_file(target)
    mine: set[Path] = _held.__dict__.setdefault("paths", set())
    if path in mine:
        yield
        return
    descriptor = _acquire(path, target)
    mine.add(path)
    try:
        yield
    finally:
        mine.discard(path)
        # Removed while it is held: whoever waits for this very file finds that it is gone, and makes another.
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def lock_file(target: Path) -> Path:
    """Return where the lock of a target lies."""
    return target.parent / f".{target.name}.lock"


def _acquire(path: Path, target: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise UsageError(
                f"{holder} is writing to {target}: let it finish, end it, or choose another directory."
            ) from None
        except OSError:  # no locks here, as on some network file systems
            return descriptor
        if _is_still(path, descriptor):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, json.dumps({"process": os.getpid()}).encode())
            return descriptor
        os.close(descriptor)  # the last holder removed it between our opening and our lock


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    try:
        return f"Another process ({int(json.loads(os.pread(descriptor, 200, 0))['process'])})"
    except (OSError, ValueError, KeyError, TypeError):  # it may not have written its number yet
        return "Another process"
