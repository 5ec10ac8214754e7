"""Pages of mapped files are released beyond a limit, those of the largest model first."""

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
def touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[mmap.mmap]]:
    """Maps of a checkpoint of 4 shards of 8 MB, and of a pruned file of 12 MB; all pages are in memory."""
    monkeypatch.setattr(mapped_pages, "_OWNERS", type(mapped_pages._OWNERS)())
    maps = []
    for owner, size in [*[("checkpoint", 8 * MB)] * 4, ("pruned", 12 * MB)]:
        path = tmp_path / str(len(maps))
        path.write_bytes(b"\1" * size)
        with path.open("rb") as file:
            maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        assert sum(maps[-1][:: mmap.PAGESIZE]) == size // mmap.PAGESIZE
        register_map(maps[-1], owner)
    yield maps
    for content in maps:
        content.close()


def test_below_the_limit_all_pages_stay(touched: list[mmap.mmap]) -> None:
    before = read_mapped_bytes()
    limit_mapped_pages(before + MB)
    assert read_mapped_bytes() > before - MB


@pytest.mark.parametrize(("released", "left"), [(1, 36 * MB), (31 * MB, 12 * MB), (33 * MB, 0)])
def test_the_maps_of_the_largest_model_are_released_first(touched: list[mmap.mmap], released: int, left: int) -> None:
    before = read_mapped_bytes()
    limit_mapped_pages(before - released)
    assert abs(before - read_mapped_bytes() - (44 * MB - left)) < 2 * MB


def test_while_calls_are_timed_more_pages_stay(touched: list[mmap.mmap], monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_mapped_bytes()
    monkeypatch.setattr(mapped_pages, "MOST_MAPPED", 0)
    monkeypatch.setattr(mapped_pages, "available_memory", lambda: 2 * (before + MB))
    with raise_page_limit():
        limit_mapped_pages()
    assert read_mapped_bytes() > before - MB


def test_while_calls_are_timed_much_smaller_models_keep_their_pages(
    touched: list[mmap.mmap], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = read_mapped_bytes()
    monkeypatch.setattr(mapped_pages, "MOST_MAPPED", 0)
    monkeypatch.setattr(mapped_pages, "available_memory", lambda: 0)
    with raise_page_limit():
        limit_mapped_pages()
    assert abs(before - read_mapped_bytes() - 32 * MB) < 2 * MB


def test_a_closed_map_is_passed_over(touched: list[mmap.mmap]) -> None:
    touched[0].close()
    limit_mapped_pages(0)
