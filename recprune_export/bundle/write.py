"""Write a bundle atomically: into a temporary sibling, which is then renamed.

While a process writes `bundle`, or after it was killed, these siblings may exist:

    .bundle.lock       the lock of the writer (`bundle.lock`)
    .bundle.X.tmp      an incomplete bundle, or a replaced one: removed by the next writer
    .bundle.X.old      the previous bundle, if names cannot be exchanged in one step: restored by the next writer
"""

import contextlib
import ctypes
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from recprune_export.bundle.lock import hold_write_lock
from recprune_export.bundle.manifest.manifest import (
    FORMAT,
    MANIFEST,
    SIGNATURE,
    FileEntry,
    Manifest,
    check_name,
    read_manifest_bytes,
)
from recprune_export.errors import BundleError, UsageError
from recprune_export.output_files import make_sibling_path

_CHUNK = 1 << 20
_UNFINISHED, _OLD = ".tmp", ".old"


@dataclass(frozen=True)
class HardLink:
    """A reference to another file of the bundle with the same content, by its name in the bundle.

    It becomes a hard link, or a copy if the file system has none. An object store, or a container that mounts one folder of the bundle,
    would lose a symbolic link; for both a hard link is a plain file, and it takes no space.
    """

    name: str


Content = Path | bytes | HardLink


def check_target(target: Path) -> Path:
    """Check that a bundle can be written to `target` and return its absolute path; to be called before a long job.

    The target may be absent, an empty directory, or a bundle, which is replaced. Raises `UsageError` if it is anything else, if it cannot
    be written, or if another process is writing to it.
    """
    with stage_bundle(target) as checked:
        return checked


@contextlib.contextmanager
def stage_bundle(target: Path) -> Iterator[Path]:
    """Yield the absolute path of `target`, locked for writing; remains of killed writers are removed first.

    Missing parents are created, and removed again if they stay empty. Raises `UsageError` like `check_target`.
    """
    target = _resolve_target(target)
    with _create_parents(target), contextlib.ExitStack() as stack:
        with _readable_errors(target):
            stack.enter_context(hold_write_lock(target))
            _remove_remains(target)
            _check_replaceable(target)
            probe = make_sibling_path(target, _UNFINISHED)
            probe.mkdir()
            probe.rmdir()
        yield target


def write_bundle(
    target: Path, files: Mapping[str, Content], manifest: Manifest, sign: Callable[[bytes], bytes] | None = None
) -> Path:
    """Write `files` (name in the bundle -> a file to copy, or the content) and `manifest` to `target`; return `target`.

    `sign` computes the signature from the bytes of the manifest; without it the bundle is unsigned.

    At every moment `target` is either the previous content or the complete new bundle. After an exception, including `KeyboardInterrupt`,
    no temporary files remain.

    Raises `UsageError` if `target` contains anything but a bundle or cannot be written, and `BundleError`
    for a file name outside the bundle.
    """
    for name in files:
        check_name(name)
    with stage_bundle(target) as target, _readable_errors(target):
        staging = make_sibling_path(target, _UNFINISHED)
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
            # After an exchange this is the replaced bundle.
            shutil.rmtree(staging, ignore_errors=True)
    return target


def _resolve_target(target: Path) -> Path:
    try:
        target = Path(target).resolve()
    except (OSError, RuntimeError) as error:  # links in a circle
        raise UsageError(f"{target} cannot be resolved: choose another directory.") from error
    if not target.name:
        raise UsageError(f"{target} cannot be replaced by a bundle: choose another directory.")
    if not target.name.isprintable():
        raise UsageError(f"{target.name!r} contains invalid characters: choose another name.")
    return target


def _remove_remains(target: Path) -> None:
    """Restore or remove the siblings that killed writers left; the caller must hold the lock."""
    siblings = {suffix: _find_siblings(target, suffix) for suffix in (_OLD, _UNFINISHED)}
    for old in siblings[_OLD]:
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(old, target)
    for unfinished in siblings[_UNFINISHED]:
        shutil.rmtree(unfinished, ignore_errors=True)


def _find_siblings(target: Path, suffix: str) -> list[Path]:
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{12}}{re.escape(suffix)}")
    return [path for path in target.parent.iterdir() if name.fullmatch(path.name) and not path.is_symlink()]


def _check_replaceable(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise UsageError(f"{target} is a file: choose a directory for the bundle, or remove the file.")
    if target.is_dir() and any(target.iterdir()):
        foreign = _find_foreign_content(target)
        if foreign is not None:
            raise UsageError(
                f"{target} exists and {foreign}, so it is not replaced: choose another directory, or remove it manually."
            )


def _find_foreign_content(directory: Path) -> str | None:
    """Return why a directory is not a bundle, or its first file that is not listed; None for a bundle without other files."""
    try:
        values = json.loads(read_manifest_bytes(directory / MANIFEST))
        listed = set(values["files"]) if values["format"] == FORMAT else None
    except (BundleError, OSError, ValueError, TypeError, KeyError, RecursionError):
        listed = None
    if listed is None:
        return "is not a bundle"
    present = {
        path.relative_to(directory).as_posix()
        for path in directory.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    unlisted = sorted(present - listed - {MANIFEST, SIGNATURE})
    return f"contains '{unlisted[0]}', which does not belong to the bundle" if unlisted else None


@contextlib.contextmanager
def _readable_errors(target: Path) -> Iterator[None]:
    """Convert `OSError` to `UsageError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"No bundle can be written to {target}: {reason}.") from error


@contextlib.contextmanager
def _create_parents(target: Path) -> Iterator[None]:
    """Create the missing parents of `target`; on exit remove those that stayed empty."""
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
    """Write `content` to `path` and compute its checksum in the same pass."""
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
        aside = make_sibling_path(target, _OLD)
        os.rename(target, aside)
        try:
            os.rename(staging, target)
        except BaseException:
            os.rename(aside, target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange the names of two directories in one step; return False if the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    at_fdcwd, rename_exchange = -100, 2  # linux/fcntl.h, linux/fs.h
    status: int = renameat2(at_fdcwd, os.fsencode(first), at_fdcwd, os.fsencode(second), ctypes.c_uint(rename_exchange))
    return status == 0
