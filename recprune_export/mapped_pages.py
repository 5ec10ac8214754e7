"""Pages of mapped files in the memory of this process: released beyond a limit, and mapped again when they are needed.

The system takes such pages when memory is short. Until then they count as this process's memory, which is misleading where
a file is larger than memory, and under the limit of a container.
"""

import mmap
from contextlib import suppress
from pathlib import Path
from weakref import WeakSet

MOST_MAPPED = 1 << 30  # bytes of mapped pages that stay in memory
MOST_MAPPED_WHILE_TIMED = (
    1 << 32
)  # the same between turns of a measurement, of which a call should not map its pages again

_STATUS = Path("/proc/self/statm")
_MAPS: "WeakSet[mmap.mmap]" = WeakSet()


def register_map(content: object) -> None:
    """Let the pages of a map be given back: one of which nothing is written, or whose changes belong to the file.

    Anything else than a `mmap.mmap`, such as the absent map of an empty array, is ignored.
    """
    if isinstance(content, mmap.mmap):
        _MAPS.add(content)


def limit_mapped_pages(most: int = MOST_MAPPED) -> None:
    """Give back the pages of all registered maps where this process has more than `most` bytes of mapped files in memory."""
    if not _MAPS or not hasattr(mmap, "MADV_DONTNEED"):
        return
    with suppress(OSError, ValueError, IndexError):
        if int(_STATUS.read_bytes().split()[2]) * mmap.PAGESIZE > most:
            for content in list(_MAPS):
                with suppress(ValueError):  # closed
                    content.madvise(mmap.MADV_DONTNEED)
