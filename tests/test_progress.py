"""Progress is on stderr, on terminals alone, and bars may stand inside of one another."""

import io
import itertools
import re
import sys
import time
from typing import Any

import pytest

from recprune_export import progress
from recprune_export.progress import (
    errors_only,
    print_stages,
    print_status,
    print_warning,
    progress_bar,
    quiet,
    show_status,
    track,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, *, silent: bool = False) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    with quiet(silent), show_status("Choosing channels"), progress_bar("Tuning", 2) as advance:
        advance("Tuning, epoch 1")
        assert list(track([1, 2], "Fields")) == [1, 2]
        print_status("a line")
    return stream.getvalue()


def test_a_terminal_is_told_of_all_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal())
    assert all(word in text for word in ("Choosing channels", "Tuning, epoch 1", "Fields", "a line"))


def test_a_pipe_gets_lines_but_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO()) == "a line\n"


def test_quiet_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, Terminal(), silent=True).replace("\n", "") == ""


def test_a_log_gets_a_line_for_each_outermost_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    with print_stages():
        lines = shown(monkeypatch, io.StringIO()).splitlines()
    assert [line.partition("] ")[2] or line for line in lines] == ["Choosing channels", "a line"]
    assert lines[0].endswith(" s] Choosing channels")


def test_a_log_is_not_silent_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    stream, now = io.StringIO(), 100.0
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with print_stages(), show_status("Choosing"), progress_bar("Tuning", 4) as advance:
        now += 4.0
        advance("Tuning, epoch 1")
        now += 4.0
        advance("")
        now += 8.0
        advance("")
    texts = [line.partition("] ")[2] for line in stream.getvalue().splitlines()]
    assert texts == ["Choosing", "Tuning, epoch 1 (25%)", "Tuning, epoch 1 (75%)"]


def test_a_stage_that_says_nothing_is_named_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(progress._StageLines, "REMINDER_SECONDS", 0.2)
    monkeypatch.setattr(progress._StageLines, "POLL_SECONDS", 0.01)
    with print_stages():
        with show_status("Loading PyTorch"):
            time.sleep(0.7)
        ended = stream.getvalue()
        time.sleep(0.5)
    assert 3 <= ended.count("Loading PyTorch") <= 4
    assert stream.getvalue() == ended


def test_reminders_of_a_long_stage_become_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    now, printed = 0.0, []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr(progress, "print_status", lambda text: printed.append(now))
    lines = progress._StageLines()
    monkeypatch.setattr(lines._ended, "wait", lambda seconds: now >= 600.0)
    lines._texts.append("Tuning")
    lines._print("Tuning", 0.0)

    def step(text: str, after: float, honest: Any = lines._print) -> None:
        nonlocal now
        now += 0.25
        honest(text, after)

    monkeypatch.setattr(lines, "_print", step)
    lines._remind()
    gaps = [after - before for before, after in itertools.pairwise(printed)]
    assert max(gap for gap, at in zip(gaps, printed, strict=False) if at < 20) <= 3.0
    assert len(printed) < 50


def test_a_bar_shows_rows_a_second_where_a_step_is_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def bar(rows_per_step: int | None) -> str:
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", "120")
        with progress_bar("Tuning", 3, rows_per_step) as advance:
            for _ in range(3):
                time.sleep(0.01)
                advance("")
        return stream.getvalue()

    rates = [float(text.replace(",", "")) for text in re.findall(r"([\d,]+) rows/s", bar(50))]
    assert any(0 < rate <= 5000 for rate in rates)  # 50 rows take 10 ms or longer
    assert "rows/s" not in bar(None)


def test_errors_only_hides_warnings_too(capsys: pytest.CaptureFixture[str]) -> None:
    with errors_only():
        print_warning("busy")
        print_status("a line")
    assert capsys.readouterr().err == ""


def test_forced_color_makes_no_bars_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as Jupyter and many CI systems set it
    assert shown(monkeypatch, io.StringIO()) == "a line\n"
