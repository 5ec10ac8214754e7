"""Pages of mapped files in the memory of this process: released beyond a limit, and mapped again when they are needed.

The system can reclaim such pages when memory is short. Until then they count as memory of this process, which is misleading if a file is
larger than memory, and counts toward the limit of a container.
"""

import mmap
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from weakref import WeakKeyDictionary

MOST_MAPPED = 1 << 30  # bytes of mapped pages that stay in memory
# The same while calls are timed, which should not have to map their pages again
MOST_MAPPED_WHILE_TIMED = 1 << 32

_limit = ContextVar("limit", default=MOST_MAPPED)
_STATUS = Path("/proc/self/statm")
_OWNERS: "WeakKeyDictionary[mmap.mmap, str]" = WeakKeyDictionary()


def register_map(content: object, owner: str) -> None:
    """Allow the pages of a map to be released: the map must be read-only, or its changes must belong to the file.

    `owner` is the name of the model or file to which the map belongs. Objects other than a `mmap.mmap`, such as the missing map of
    an empty array, are ignored.
    """
    if isinstance(content, mmap.mmap):
        _OWNERS[content] = owner


def has_registered_maps() -> bool:
    """Return whether any map is registered."""
    return len(_OWNERS) > 0


@contextmanager
def raise_page_limit() -> Iterator[None]:
    """Raise the default limit of `limit_mapped_pages` to MOST_MAPPED_WHILE_TIMED within the context."""
    token = _limit.set(MOST_MAPPED_WHILE_TIMED)
    try:
        yield
    finally:
        _limit.reset(token)


def limit_mapped_pages(most: int | None = None) -> None:
    """Release pages of registered maps while this process has more than `most` bytes of mapped files in memory.

    The default of `most` is MOST_MAPPED, or the limit that `raise_page_limit` sets.

    The maps of the largest owner are released first, so that the pruned model stays in memory if that is enough. Its file may be
    larger than each file of a checkpoint in shards.
    """
    if not _OWNERS or not hasattr(mmap, "MADV_DONTNEED"):
        return
    most = _limit.get() if most is None else most
    with suppress(OSError, ValueError, IndexError):
        for content in _sort_maps():
            if int(_STATUS.read_bytes().split()[2]) * mmap.PAGESIZE <= most:
                return
            with suppress(ValueError):  # closed
                content.madvise(mmap.MADV_DONTNEED)


def _sort_maps() -> list[mmap.mmap]:
    """Return the maps of the owner with the most bytes first, and of each owner the largest map first."""
    sizes = {content: _count_bytes(content) for content in _OWNERS}
    totals: Counter[str] = Counter()
    for content, size in sizes.items():
        totals[_OWNERS[content]] += size
    return sorted(sizes, key=lambda content: (-totals[_OWNERS[content]], _OWNERS[content], -sizes[content]))


def _count_bytes(content: mmap.mmap) -> int:
    try:
        return len(content)
    except ValueError:  # closed
        return 0
