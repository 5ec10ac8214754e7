"""Lock a target for one writer: a lock file beside it, which the system releases when its holder ends."""

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
    """Hold the write lock of `target` inside the block; the parent directory must exist.

    Raises `UsageError`, which names the other process, if the lock is held. On a file system without locks nothing is
    locked.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, hold_write_lock(Path(folder) / "bundle"):
    ...     [path.name for path in Path(folder).iterdir()]
    ['.bundle.lock']
    """
    path = lock_file(target)
    held_paths: set[Path] = _held.__dict__.setdefault("paths", set())
    if path in held_paths:
        yield
        return
    descriptor = _acquire(path, target)
    held_paths.add(path)
    try:
        yield
    finally:
        held_paths.discard(path)
        _release(path, descriptor)


def lock_file(target: Path) -> Path:
    """Return the path of the lock file of a target."""
    return target.parent / f".{target.name}.lock"


def _acquire(path: Path, target: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _describe_holder(descriptor)
            os.close(descriptor)
            raise UsageError(
                f"{holder} is writing to {target}: wait until it finishes, stop it, or choose another directory."
            ) from None
        except OSError:  # a file system without locks, such as some network file systems
            return descriptor
        if _is_still(path, descriptor):
            try:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, json.dumps({"process": os.getpid()}).encode())
            except OSError:  # a full disk accepts the name of a file, but no content
                _release(path, descriptor)
                raise
            return descriptor
        os.close(descriptor)  # the last holder removed it between opening and locking


def _release(path: Path, descriptor: int) -> None:
    # Removed while it is locked: a process that waits for this file sees that it was removed, and creates another.
    with contextlib.suppress(OSError):
        path.unlink()
    os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _describe_holder(descriptor: int) -> str:
    try:
        return f"Another process ({int(json.loads(os.pread(descriptor, 200, 0))['process'])})"
    except (OSError, ValueError, KeyError, TypeError):  # it may not have written its process id yet
        return "Another process"
