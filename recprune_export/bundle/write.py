"""Write a bundle whole or not at all: into a temporary sibling, then renamed.

Beside `bundle` there may lie, while somebody writes or after a kill:

    .bundle.lock       who writes (`bundle.lock`)
    .bundle.X.tmp      a bundle that is not whole yet, or one that was replaced: removed by the next writer
    .bundle.X.old      the bundle itself, while names cannot be exchanged in one step: put back by the next writer
"""

import contextlib
import ctypes
import hashlib
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from recprune_export.bundle.lock import hold_write_lock
from recprune_export.bundle.manifest.manifest import FORMAT, MANIFEST, SIGNATURE, FileEntry, Manifest, check_name
from recprune_export.errors import UsageError

_CHUNK = 1 << 20
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNFINISHED, _OLD = ".tmp", ".old"


@dataclass(frozen=True)
class HardLink:
    """The content of a file that another file of the bundle has already, by its name in the bundle.

    It becomes a hard link, and a copy where the file system has none. A symbolic link would not outlive an object
    store, nor a container that is given one folder of the bundle; a hard link is a plain file to both, and takes no room.
    """

    name: str


Content = Path | bytes | HardLink


def check_target(target: Path) -> Path:
    """Return `target` as an absolute path, made sure that a bundle can be written there; to be called before the work.

    An absent or empty directory will do, and so will a bundle, which is replaced. Raises `UsageError` where there is
    anything else, where nothing can be written, or where another process writes.
    """
    with stage_bundle(target) as checked:
        return checked


@contextlib.contextmanager
def stage_bundle(target: Path) -> Iterator[Path]:
    """Give the absolute path of `target`, which nobody else may write inside the block; what kills left is cleared away.

    Parents that are missing are made, and removed again where they stay empty. Raises `UsageError` as `check_target` does.
    """
    target = _absolute(target)
    with _parents(target), contextlib.ExitStack() as held:
        with _readable_errors(target):
            held.enter_context(hold_write_lock(target))
            _clear(target)
            _check_replaceable(target)
            probe = _sibling(target)
            probe.mkdir()
            probe.rmdir()
        yield target


def write_bundle(
    target: Path, files: Mapping[str, Content], manifest: Manifest, sign: Callable[[bytes], bytes] | None = None
) -> Path:
    """Write `files` (name in the bundle -> a file to copy, or the content) and `manifest` to `target`; return it.

    `sign` makes the signature of the manifest from its bytes; without it the bundle has none.

    At every moment `target` is what it was before or the whole new bundle. Whatever ends the call early,
    `KeyboardInterrupt` too, leaves nothing behind.

    Raises `UsageError` where `target` holds something else than a bundle or cannot be written, and `BundleError`
    for a file name that leads out of the bundle.
    """
    for name in files:
        check_name(name)
    with stage_bundle(target) as target, _readable_errors(target):
        staging = _sibling(target)
        try:
            staging.mkdir()
            entries = _write_all(staging, files)
            text = manifest.with_files(entries).to_json().encode()
            if sign is not None:
                _write(staging / SIGNATURE, sign(text))
            _write(staging / MANIFEST, text)
            for directory in (staging, *(path for path in staging.rglob("*") if path.is_dir())):
                _sync(directory)
            _swap(staging, target)
            _sync(target.parent)
        finally:
            # After an exchange this is the bundle that was replaced.
            shutil.rmtree(staging, ignore_errors=True)
    return target


def _absolute(target: Path) -> Path:
    try:
        target = Path(target).resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise UsageError(f"{target} cannot be followed: choose another directory.") from error
    if not target.name:
        raise UsageError(f"{target} cannot be replaced by a bundle: choose another directory.")
    if not target.name.isprintable():
        raise UsageError(f"{target.name!r} holds characters that are no text: choose another name.")
    return target


def _clear(target: Path) -> None:
    """Bring what killed writers left in order; only the one who holds the lock may."""
    beside = {end: _left(target, end) for end in (_OLD, _UNFINISHED)}
    for old in beside[_OLD]:
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, target)
    for unfinished in beside[_UNFINISHED]:
        shutil.rmtree(unfinished, ignore_errors=True)


def _left(target: Path, end: str) -> list[Path]:
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{12}}{re.escape(end)}")
    return [path for path in target.parent.iterdir() if name.fullmatch(path.name) and not path.is_symlink()]


def _check_replaceable(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file: choose a directory for the bundle, or remove the file.")
    if target.is_dir() and any(target.iterdir()):
        foreign = _foreign(target)
        if foreign is not None:
            raise UsageError(
                f"{target} exists and {foreign}, so it is not replaced: choose another directory, or remove it yourself."
            )


def _foreign(directory: Path) -> str | None:
    """Why a directory is no bundle, or what it holds besides one; None for a bundle and nothing else."""
    try:
        values = json.loads((directory / MANIFEST).read_bytes())
        listed = set(values["files"]) if values["format"] == FORMAT else None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        listed = None
    if listed is None:
        return "is not a bundle"
    present = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if not path.is_dir()}
    others = sorted(present - listed - {MANIFEST, SIGNATURE})
    return f"holds '{others[0]}', which does not belong to the bundle" if others else None


@contextlib.contextmanager
def _readable_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"No bundle can be written to {target}: {reason}.") from error


@contextlib.contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Make the missing parents of `target`; on the way out remove those that stayed empty."""
    with _readable_errors(target):
        missing = [parent for parent in target.parents if not parent.exists()]
    try:
        with _readable_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()


def _sibling(target: Path, end: str = _UNFINISHED) -> Path:
    return target.parent / f".{target.name}.{uuid.uuid4().hex[:12]}{end}"


def _write_all(staging: Path, files: Mapping[str, Content]) -> dict[str, FileEntry]:
    entries = {name: _write(staging / name, c) for name, c in files.items() if not isinstance(c, HardLink)}
    for name, content in files.items():
        if isinstance(content, HardLink):
            entries[name] = _link(staging / content.name, staging / name, entries[content.name])
    return entries


def _link(source: Path, path: Path, entry: FileEntry) -> FileEntry:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, path)
    except OSError:  # a file system without hard links
        return _write(path, source)
    return entry


def _write(path: Path, content: Path | bytes) -> FileEntry:
    """Copy to `path`, and take the checksum of what was copied in the same pass."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    source = io.BytesIO(content) if isinstance(content, bytes) else content.open("rb")
    with source, path.open("xb") as copy:
        while chunk := source.read(_CHUNK):
            copy.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        copy.flush()
        os.fsync(copy.fileno())
    return FileEntry(bytes=size, sha256=digest.hexdigest())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(staging: Path, target: Path) -> None:
    if not target.exists() or not any(target.iterdir()):
        os.rename(staging, target)  # replaces an empty directory as well
    elif not _exchange(staging, target):
        aside = _sibling(target, _OLD)
        os.rename(target, aside)
        try:
            os.rename(staging, target)
        except BaseException:
            os.rename(aside, target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Let two directories change their names in one step; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    done: int = renameat2(
        _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), ctypes.c_uint(_RENAME_EXCHANGE)
    )
    return done == 0
