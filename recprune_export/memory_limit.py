"""The memory that is available to this process: of the machine, of its container, and of its resource limits."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
_KIB = 1 << 10
COPIES = 3  # of a model, the peak of a job


def available_memory() -> int:
    """Return the bytes that are available to this process.

    The minimum of the free memory of the system, of the limits of control groups, and of the limits of data and of
    addresses that `ulimit -d` and `ulimit -v` set. Half of all memory if the system does not report its free memory.
    """
    return max(0, min(_list_limits()))


def fits_in_memory(size: int) -> bool:
    """Return whether a job on weights of `size` bytes, which holds them `COPIES` times, fits into the available memory."""
    return COPIES * size <= available_memory()


def read_data_limit() -> int | None:
    """Return the bytes of writable memory that `ulimit -d` leaves to this process; None without a limit."""
    with suppress(ImportError, OSError, ValueError):
        import resource  # not on Windows

        most, present = resource.getrlimit(resource.RLIMIT_DATA)[0], _read_kib(Path("/proc/self/status"), "VmData")
        if most != resource.RLIM_INFINITY and present is not None:
            return max(0, most - present)
    return None


def _list_limits() -> Iterator[int]:
    free = _read_kib(Path("/proc/meminfo"), "MemAvailable")
    if free is not None:
        yield free
    else:
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if hasattr(os, "sysconf") else 1 << 33
    yield from _read_group_limit()
    data = read_data_limit()
    if data is not None:
        yield data
    with suppress(ImportError, OSError, ValueError):
        import resource  # not on Windows

        most, present = resource.getrlimit(resource.RLIMIT_AS)[0], _read_kib(Path("/proc/self/status"), "VmSize")
        if most != resource.RLIM_INFINITY and present is not None:
            yield most - present


def _read_group_limit() -> Iterator[int]:
    """Yield the memory that is left in the control group of this process (version 2) and in those of a container (both versions)."""
    folders = [CGROUP]
    with suppress(OSError, StopIteration):
        own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        folders.append(CGROUP / own.removeprefix("0::").lstrip("/"))
    files = [(folder / "memory.max", folder / "memory.current") for folder in folders]
    files.append((CGROUP / "memory/memory.limit_in_bytes", CGROUP / "memory/memory.usage_in_bytes"))
    for most, present in files:
        with suppress(OSError, ValueError):  # "max" is no limit
            yield int(most.read_text()) - int(present.read_text())


def _read_kib(path: Path, name: str) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        for line in path.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * _KIB
    return None
