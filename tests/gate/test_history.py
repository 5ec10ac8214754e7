"""The history of checks, what github-action-benchmark reads, and annotations: of the command and of its parts."""

import json
import multiprocessing
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from recprune_export.cli import main
from recprune_export.evidence import Estimate, Verdict
from recprune_export.gate import Check, CheckRecord, Finding, append_record, make_record, read_history
from recprune_export.gate import _check as module
from recprune_export.gate.output import render_annotations, render_benchmark
from recprune_export.report import render_check_report
from recprune_export.validation import Footprint, FootprintReport
from tests.gate.models import bundle
from tests.gate.synthetic import synthetic
from tests.report.pages import read
from tests.report.properties import check_page


@pytest.fixture
def latency(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set how many times as long NEW takes; no process is started."""
    for name in ("GITHUB_STEP_SUMMARY", "GITHUB_ACTIONS", "GITHUB_SHA", "CI_COMMIT_SHA"):
        monkeypatch.delenv(name, raising=False)
    report = FootprintReport({name: (Footprint(5, 1, 2**20, 2**20),) * 3 for name in ("NEW", "BASE")}, 8)
    monkeypatch.setattr(module, "measure_footprints", lambda *_: report)

    def take(ratio: float) -> None:
        monkeypatch.setattr(module, "make_sampler", lambda *_: synthetic(ratio, 0.005))

    take(1.0)
    return take


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return bundle(tmp_path / "base")


def run(base: Path, *options: object) -> Result:
    fixed = ["--latency-batch-sizes", "1,8", "--time-limit", "0"]
    return CliRunner().invoke(main, [str(a) for a in ("check", base, "--against", base, *fixed, *options)])


def test_each_check_appends_a_row(
    base: Path, tmp_path: Path, latency: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "new folder" / "history.jsonl"
    for ratio, commit in ((1.0, "a" * 40), (1.3, "b" * 40)):
        latency(ratio)
        monkeypatch.setenv("GITHUB_SHA", commit)
        assert run(base, "--history", file).exit_code == (0 if ratio == 1.0 else 1)
    first, second = read_history(file)
    assert (first.commit, first.verdict) == ("a" * 40, Verdict.HOLDS)
    assert (second.commit, second.verdict) == ("b" * 40, Verdict.FAILS)
    figure = second.figures["latency, batch 8"]
    assert (figure.unit, figure.verdict) == ("ms", Verdict.FAILS)
    assert figure.new / figure.base == pytest.approx(1.3, rel=0.05)
    assert second.figures["nodes"].verdict is Verdict.SKIPPED
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", first.time)


def test_without_a_ci_the_commit_is_that_of_git(
    base: Path, tmp_path: Path, latency: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "none").mkdir()
    monkeypatch.chdir(tmp_path / "none")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    assert run(base, "--history", tmp_path / "h.jsonl").exit_code == 0
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert run(base, "--history", tmp_path / "h.jsonl").exit_code == 0
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    assert [record.commit for record in read_history(tmp_path / "h.jsonl")] == [None, head]


def made(ratio: float = 1.0, gate: str = "latency, batch 1", verdict: Verdict = Verdict.HOLDS) -> Check:
    estimate = Estimate(ratio, 0.9 * ratio, 1.1 * ratio)
    findings = (
        Finding(gate, verdict, "NEW takes more.", 2.0, 2.0 * ratio, "ms", "at most 5 % more", estimate, 0.05),
        Finding("model size", Verdict.HOLDS, "", 3e6, 2e6, "bytes", "at most 5 % more", None, 0.05),
        Finding("nodes", Verdict.SKIPPED, "", 3.0, 4.0),
        Finding("quality, auc", Verdict.HOLDS, "", 0.8, 0.81, change=Estimate(0.01, 0.0, 0.02)),
        Finding("quality, logloss", Verdict.HOLDS, "", 0.5, 0.4, change=Estimate(-0.1, -0.2, 0.0)),
        Finding("load time", Verdict.HOLDS, "", float("inf"), float("nan"), "ms"),
    )
    return Check("new", "base", findings, {}, 1, 1.0, environment={})


def test_figures_that_are_no_numbers_are_left_out() -> None:
    assert set(make_record(made()).figures) == {
        "latency, batch 1",
        "model size",
        "nodes",
        "quality, auc",
        "quality, logloss",
    }


def append_some(path: Path, name: str) -> None:
    for _ in range(40):
        append_record(path, replace(make_record(made()), new=name * 2000))


def test_rows_of_processes_at_once_are_whole(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    workers = [multiprocessing.get_context("fork").Process(target=append_some, args=(file, name)) for name in "abc"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    records = read_history(file)
    assert sorted(record.new[0] for record in records) == sorted("abc" * 40)


def test_a_row_that_does_not_fit_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "history.jsonl"
    append_record(file, make_record(made()))
    before, honest = file.read_bytes(), os.write
    monkeypatch.setattr(os, "write", lambda descriptor, line: honest(descriptor, line[:20]))  # a disk that fills up
    with pytest.raises(Exception, match="--history cannot be written"):
        append_record(file, make_record(made()))
    assert file.read_bytes() == before


def test_a_line_without_an_end_does_not_swallow_the_next(tmp_path: Path) -> None:
    file = tmp_path / "history.jsonl"
    append_record(file, make_record(made()))
    file.write_bytes(file.read_bytes().rstrip(b"\n"))
    append_record(file, make_record(made()))
    assert len(read_history(file)) == 2


@pytest.mark.parametrize("content", ["a,b\n1,2\n", "{}\n", "[1]\n", '{"time": 3}\n', "\xff\xfe"])
def test_another_file_is_refused_before_the_work(content: str, base: Path, tmp_path: Path, latency: object) -> None:
    file = tmp_path / "history.jsonl"
    file.write_bytes(content.encode("latin-1"))
    done = run(base, "--history", file)
    assert done.exit_code == 2
    assert "--history" in done.stderr
    assert "Verdict" not in done.stdout
    assert file.read_bytes() == content.encode("latin-1")


def test_the_trend_is_drawn_over_the_commits(base: Path, tmp_path: Path, latency: object) -> None:
    file, page = tmp_path / "history.jsonl", tmp_path / "check.html"
    assert run(base, "--history", file, "--report", page).exit_code == 0
    assert "Over the checks" not in page.read_text()
    assert run(base, "--history", file, "--report", page).exit_code == 0
    assert "Over the checks" in page.read_text()
    check_page(page.read_text())


def record(ratio: float, commit: str, verdict: Verdict) -> CheckRecord:
    return replace(make_record(made(ratio, verdict=verdict)), commit=commit, verdict=verdict)


def test_a_trend_has_a_dot_for_each_check_in_its_color_and_order() -> None:
    history = [
        record(1.0, "1" * 40, Verdict.HOLDS),
        record(1.5, "<2>" * 20, Verdict.FAILS),
        record(1.2, "3" * 40, Verdict.UNDECIDED),
    ]
    page = render_check_report(made(1.2), history)
    check_page(page)
    (section,) = [s for s in read(page).all("section") if s.attributes["id"] == "history"]
    svg = section.all("svg")[0]
    dots = svg.all("circle")
    assert [dot.attributes["class"] for dot in dots] == ["pass", "fail", "undecided"]
    x, y = ([float(dot.attributes[axis]) for dot in dots] for axis in ("cx", "cy"))
    assert x == sorted(x)
    assert y[1] < y[2] < y[0]  # the slowest is highest


def test_benchmark_json_is_what_the_action_reads(base: Path, tmp_path: Path, latency: object) -> None:
    file = tmp_path / "benchmark.json"
    assert run(base, "--benchmark-json", file).exit_code == 0
    entries = json.loads(file.read_text())
    assert {"latency, batch 1", "load time", "model size", "nodes"} <= {entry["name"] for entry in entries}
    for entry in entries:
        assert set(entry) <= {"name", "unit", "value", "range", "extra"}
        assert isinstance(entry["value"], int | float)
        assert entry["unit"]


def test_what_should_rise_is_no_benchmark_where_smaller_is_better() -> None:
    entries = {entry["name"]: entry for entry in render_benchmark(made(1.5))}
    assert set(entries) == {"latency, batch 1", "model size", "nodes", "quality, logloss"}
    assert entries["latency, batch 1"]["range"] == "± 0.3"
    assert entries["latency, batch 1"]["value"] == 3.0
    assert "BASE 2.000 ms" in entries["latency, batch 1"]["extra"]


def test_a_hostile_name_ends_no_cell_of_the_action() -> None:
    entries = render_benchmark(made(gate="latency, `|\n<b>"))
    assert not set("`|\n") & set(entries[0]["name"])


def test_gates_that_do_not_hold_are_annotations(
    base: Path, latency: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    latency(1.3)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    done = run(base, "--json")
    assert json.loads(done.stdout)["verdict"] == "fail"
    commands = [line for line in done.stderr.splitlines() if line.startswith("::")]
    assert len(commands) == 2
    assert all(
        re.match(r"::error title=recprune-export check%3A latency%2C batch [18]::NEW takes", c) for c in commands
    )
    assert "99%25 interval" in commands[0]


def test_an_annotation_is_one_line_whatever_the_gate_is_called() -> None:
    (command,) = render_annotations(made(gate="a\n::set-env name=X::y, b:c\x1b", verdict=Verdict.UNDECIDED))
    assert command.startswith("::warning title=")
    assert "\n" not in command
    assert "\x1b" not in command
