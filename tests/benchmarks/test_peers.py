"""The comparison with other tools pairs seeds, leaves out what is not installed, and names each contestant once."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ROWS = 400


@pytest.fixture(scope="module")
def modules() -> Iterator[SimpleNamespace]:
    """The scripts import each other from their own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        names = ("bytes_cells", "bytes_scores", "peer_files", "peers")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def add_cell(modules: SimpleNamespace, cells: Any, seed: int, contestant: str, point: float, noise: float) -> None:
    """Save a cell whose answers are the labels with `noise`, as large as its share of the dense bytes."""
    positive = np.arange(ROWS) % 3 == 0
    logits = positive + np.random.default_rng(seed).normal(0.0, noise, ROWS)
    truth = modules.bytes_scores.Truth({"label": positive.astype(np.float32)}, np.arange(ROWS) < ROWS // 2)
    quality = modules.bytes_scores.measure_quality({"label": logits}, truth)
    latency = {
        str(batch): {"file": 1.0, "dense": 2.0, "log_ratios": [0.6, 0.7, 0.8]} for batch in modules.peers.BATCHES
    }
    size = 1000 if contestant == "dense" else 100
    cell = modules.bytes_cells.Cell(
        "frappe/dlrm", seed, contestant, point, size, 1000, 0.0, latency, quality.metric, quality.logloss, quality.ece,
        quality.rare, "", "", 0.0, 0.0,
    )  # fmt: skip
    cells.add(cell, {"label": logits}, truth)


@pytest.fixture
def rows(modules: SimpleNamespace, tmp_path: Path) -> list[Any]:
    """The dense model with seeds 0 to 2, ours with 0 and 1, and a simplified file with 1 and 2."""
    cells = modules.bytes_cells.CellFolder(tmp_path)
    for seed in (0, 1, 2):
        add_cell(modules, cells, seed, "dense", 0.0, 1.0)
    for seed in (0, 1):
        add_cell(modules, cells, seed, "ours", modules.peers.SIZE, 0.5)
    for seed in (1, 2):
        add_cell(modules, cells, seed, modules.peer_files.SIMPLIFIED, 0.0, 1.0)
    found: list[Any] = modules.peers.read_rows(cells, "frappe/dlrm")
    return found


def test_changes_are_paired_by_seed(modules: SimpleNamespace, rows: list[Any]) -> None:
    dense, simplified, ours = rows
    assert (dense.seeds, simplified.seeds, ours.seeds) == ((0, 1, 2), (1, 2), (0, 1))
    assert simplified.change.value == 0.0  # the same answers
    less = modules.peers.compare_with_ours(simplified, rows)
    assert less.seeds == 1  # seed 1 alone is of both
    assert less.value == pytest.approx(ours.qualities[1].metric - simplified.qualities[0].metric)
    assert modules.peers.compare_with_ours(ours, rows) is None


def test_the_table_has_each_contestant_once(modules: SimpleNamespace, rows: list[Any]) -> None:
    head, _, *lines = modules.peers.make_table(rows)
    assert len(lines) == len(rows)
    assert {line.count("|") for line in [head, *lines]} == {head.count("|")}
    assert [each["times faster"]["1"]["estimate"] for each in modules.peers.list_figures(rows)] == pytest.approx(
        [np.exp(0.7)] * 3
    )


def test_the_summary_has_three_columns_for_each_case(modules: SimpleNamespace, rows: list[Any]) -> None:
    lines = modules.peers.make_summary({"frappe/dlrm": rows, "anime/dlrm": rows[:2]})
    assert {line.count("|") for line in lines} == {2 + 3 * 2}
    assert [line.split("|")[2].strip() for line in lines[2:]] == ["10 %", "10 %"]  # of the bytes of the dense model


def test_every_other_tool_has_a_package_and_a_style(modules: SimpleNamespace) -> None:
    entries = modules.peers.ENTRIES
    assert len(set(entries)) == len(entries)
    assert {name for name, point in entries if not point} == {*modules.peer_files.PACKAGES, "dense"}
    pytest.importorskip("matplotlib")
    assert importlib.import_module("peers_picture").STYLES.keys() == set(entries)


def test_the_picture_is_drawn_on_white(modules: SimpleNamespace, rows: list[Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "peers.svg"
    importlib.import_module("peers_picture").draw({"frappe/dlrm": modules.peers.list_figures(rows)}, 64, path)
    assert "fill: #ffffff" in path.read_text()


def test_a_tool_that_is_not_installed_is_left_out(
    modules: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []

    class Measurer:
        def __init__(self, *_: object) -> None: ...

        def measure(self, key: Any, *_: object) -> None:
            measured.append(key.contestant)

    monkeypatch.setattr(modules.peers, "read_versions", lambda: dict.fromkeys(modules.peer_files.PACKAGES.values()))
    monkeypatch.setattr(modules.peers, "Measurer", Measurer)
    monkeypatch.setattr(modules.peers.Subject, "prepare", lambda *_: None)
    monkeypatch.setattr(modules.peers, "print_progress", lambda _: None)
    modules.peers.measure("frappe/dlrm", 0, tmp_path, modules.bytes_cells.CellFolder(tmp_path))
    assert set(measured) == {name for name, _ in modules.peers.ENTRIES} - set(modules.peer_files.PACKAGES)
