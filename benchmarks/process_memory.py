"""Memory of a process and its descendants, read from outside."""

from pathlib import Path


def read_memory_of_tree(pid: int) -> tuple[int, int]:
    """Return the bytes of anonymous pages and of mapped pages of files that a process and its descendants have in memory."""
    anonymous, mapped = zip(*map(_read_memory, [pid, *_list_descendants(pid)]), strict=True)
    return sum(anonymous), sum(mapped)


def _read_memory(pid: int) -> tuple[int, int]:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines[1:]}
    return values["Anonymous"], values["Rss"] - values["Anonymous"]


def _list_descendants(pid: int) -> list[int]:
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [*children, *(inner for child in children for inner in _list_descendants(child))]
