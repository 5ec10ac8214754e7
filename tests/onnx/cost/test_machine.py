"""What is measured of the machine, and kept."""

import json
from pathlib import Path

import pytest

from recprune_export.diagnostics import check_cache
from recprune_export.onnx import REFERENCE, Machine, cache_directory, this_machine
from recprune_export.onnx.cost import machine as module
from recprune_export.onnx.cost.machine import measure_machine


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "recprune-export"
    return tmp_path / "recprune-export" / "machine.json"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of threads that were measured."""
    asked: list[int] = []

    def pretend(threads: int) -> Machine:
        asked.append(threads)
        return Machine(**{**vars(REFERENCE), "threads": threads})

    monkeypatch.setattr(module, "measure_machine", pretend)
    return asked


def test_a_machine_is_measured_once_for_each_number_of_threads(cache: Path, measured: list[int]) -> None:
    first = [this_machine(threads) for threads in (1, 2, 1, 2)]
    assert measured == [1, 2]
    assert [m.threads for m in first] == [1, 2, 1, 2]
    assert this_machine(1) == first[0]
    assert len(json.loads(cache.read_text())) == 2


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}', "null"])
def test_a_damaged_cache_is_measured_again(cache: Path, measured: list[int], content: str) -> None:
    this_machine(1)
    cache.write_text(content)
    assert this_machine(1).threads == 1
    assert measured == [1, 1]


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch, measured: list[int]) -> None:
    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", fail)
    assert this_machine(1).threads == 1
    assert check_cache().state == "warning"


def test_an_entry_of_another_release_is_measured_again(cache: Path, measured: list[int]) -> None:
    this_machine(1)
    values = json.loads(cache.read_text())
    cache.write_text(json.dumps({key: {"threads": 1} for key in values}))
    this_machine(1)
    assert measured == [1, 1]


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert this_machine(1).threads == 1


def test_what_is_measured_is_plausible() -> None:
    machine = measure_machine(1)
    assert 1e8 < machine.fp32 < 1e12
    assert 1e8 < machine.int8 < 1e13
    assert all(1e7 < rate < 1e13 for rate in machine.reads)
    assert 1e-9 < machine.node < machine.call < 1e-2
    assert Machine.from_dict(json.loads(json.dumps(machine.to_dict()))) == machine
