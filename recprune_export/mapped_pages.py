"""Pages of mapped files in the memory of this process: released beyond a limit, and mapped again when they are needed.

The system takes such pages when memory is short. Until then they count as this process's memory, which is misleading where
a file is larger than memory, and under the limit of a container.
"""

import mmap
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet

MOST_MAPPED = 1 << 30  # bytes of mapped pages that stay in memory
# The same while calls are timed, which should not have to map their pages again
MOST_MAPPED_WHILE_TIMED = 1 << 32

_STATUS = Path("/proc/self/statm")
_MAPS: "WeakSet[mmap.mmap]" = WeakSet()


def register_map(content: object) -> None:
    """Let the pages of a map be given back: one of which nothing is written, or whose changes belong to the file.

    Anything else than a `mmap.mmap`, such as the absent map of an empty array, is ignored.
    """
    if isinstance(content, mmap.mmap):
        _MAPS.add(content)


def has_registered_maps() -> bool:
    """Return whether any map is registered."""
    return len(_MAPS) > 0


def limit_mapped_pages(most: int = MOST_MAPPED) -> None:
    """Give back pages of registered maps while this process has more than `most` bytes of mapped files in memory.

    The largest maps come first: those of smaller files, such as the pruned model beside the dense one, stay in memory if that is enough.
    """
    if not _MAPS or not hasattr(mmap, "MADV_DONTNEED"):
        return
    with suppress(OSError, ValueError, IndexError):
        for content in sorted(_MAPS, key=_count_bytes, reverse=True):
            if int(_STATUS.read_bytes().split()[2]) * mmap.PAGESIZE <= most:
                return
            with suppress(ValueError):  # closed
                content.madvise(mmap.MADV_DONTNEED)


def _count_bytes(content: mmap.mmap) -> int:
    try:
        return len(content)
    except ValueError:  # closed
        return 0
