"""Pages of mapped files are given back beyond a limit, those of the largest files first."""

import mmap
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from recprune_export import mapped_pages
from recprune_export.mapped_pages import limit_mapped_pages, raise_page_limit, register_map

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pages are counted in /proc")

MB = 1 << 20


def read_mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_bytes().split()[2]) * mmap.PAGESIZE


@pytest.fixture
def touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, mmap.mmap]]:
    """Maps of files of 8 and 32 MB by their size, all pages in memory."""
    monkeypatch.setattr(mapped_pages, "_MAPS", type(mapped_pages._MAPS)())
    maps = {}
    for size in (8 * MB, 32 * MB):
        path = tmp_path / str(size)
        path.write_bytes(b"\1" * size)
        with path.open("rb") as file:
            maps[size] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert sum(maps[size][:: mmap.PAGESIZE]) == size // mmap.PAGESIZE
        register_map(maps[size])
    yield maps
    for content in maps.values():
        content.close()


def test_below_the_limit_all_pages_stay(touched: dict[int, mmap.mmap]) -> None:
    before = read_mapped_bytes()
    limit_mapped_pages(before + MB)
    assert read_mapped_bytes() > before - MB


@pytest.mark.parametrize(("released", "left"), [(1, 8 * MB), (33 * MB, 0)])
def test_the_largest_maps_are_given_back_first(touched: dict[int, mmap.mmap], released: int, left: int) -> None:
    before = read_mapped_bytes()
    limit_mapped_pages(before - released)
    assert abs(before - read_mapped_bytes() - (40 * MB - left)) < 2 * MB


def test_tables_that_are_read_while_calls_are_timed_leave_the_pages_of_the_other_models(
    touched: dict[int, mmap.mmap], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_mapped_bytes()
    monkeypatch.setattr(mapped_pages, "MOST_MAPPED_WHILE_TIMED", before + MB)
    with raise_page_limit():
        limit_mapped_pages()
    assert read_mapped_bytes() > before - MB


def test_a_closed_map_is_passed_over(touched: dict[int, mmap.mmap]) -> None:
    touched[32 * MB].close()
    limit_mapped_pages(0)
