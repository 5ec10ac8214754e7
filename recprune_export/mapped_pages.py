"""Pages of mapped files in the memory of this process: released beyond a limit, and mapped again when they are needed.

The system can reclaim such pages when memory is short. Until then they count as memory of this process, which is misleading if a file is
larger than memory, and counts toward the limit of a container.
"""

import mmap
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

from recprune_export.memory_limit import available_memory

MOST_MAPPED = 1 << 30  # bytes of mapped pages that stay in memory
TIMED_SHARE = 0.5  # the share of the available memory that may stay mapped while calls are timed


@dataclass(frozen=True)
class _Limit:
    """The bytes of mapped pages that stay in memory; owners with fewer bytes than `least_share` of the largest one keep theirs."""

    most: int = MOST_MAPPED
    least_share: float = 0.0


_limit: ContextVar[_Limit] = ContextVar("limit")
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
    """Let more pages stay in memory within the context, in which calls of several models are timed: TIMED_SHARE of the available memory.

    Models of less than half the bytes of the largest one, such as both forms of the pruned model, keep all of their pages.
    """
    token = _limit.set(_Limit(max(MOST_MAPPED, int(TIMED_SHARE * available_memory())), 0.5))
    try:
        yield
    finally:
        _limit.reset(token)


def limit_mapped_pages(most: int | None = None) -> None:
    """Release pages of registered maps while this process has more than `most` bytes of mapped files in memory.

    The default of `most` is MOST_MAPPED, or the limit that `raise_page_limit` sets. The maps of the largest owner are released first:
    the pruned model stays in memory if that is enough, even if its file is larger than each file of a checkpoint in shards.
    """
    if not _OWNERS or not hasattr(mmap, "MADV_DONTNEED"):
        return
    limit = _limit.get(_Limit())
    most = limit.most if most is None else most
    with suppress(OSError, ValueError, IndexError):
        if _count_mapped() <= most:
            return
        for content in _sort_maps(limit.least_share):
            with suppress(ValueError):  # closed
                content.madvise(mmap.MADV_DONTNEED)
            if _count_mapped() <= most:
                return


def _count_mapped() -> int:
    return int(_STATUS.read_bytes().split()[2]) * mmap.PAGESIZE


def _sort_maps(least_share: float) -> list[mmap.mmap]:
    """Return the maps of the owner with the most bytes first, and of each owner the largest map first."""
    sizes = {content: _count_bytes(content) for content in _OWNERS}
    totals: Counter[str] = Counter()
    for content, size in sizes.items():
        totals[_OWNERS[content]] += size
    least = least_share * max(totals.values(), default=0)
    released = [content for content in sizes if totals[_OWNERS[content]] >= least]
    return sorted(released, key=lambda content: (-totals[_OWNERS[content]], _OWNERS[content], -sizes[content]))


def _count_bytes(content: mmap.mmap) -> int:
    try:
        return len(content)
    except ValueError:  # closed
        return 0
