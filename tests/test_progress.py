"""Progress is on stderr, on terminals alone, and bars may stand inside of one another."""

import io
import re
import sys
import time

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
