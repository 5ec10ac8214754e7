"""Progress is on stderr, on terminals alone, and bars may stand inside of one another."""

import io
import sys

import pytest

from recprune_export.progress import print_status, progress_bar, quiet, show_status, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, *, silent: bool = False) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm-256color")
    with quiet(silent), show_status("Choosing what goes"), progress_bar("Tuning", 2) as advance:
        advance("Tuning, epoch 1")
        assert list(track([1, 2], "Fields")) == [1, 2]
        print_status("a line")
    return stream.getvalue()


def test_a_terminal_is_told_of_all_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    text = shown(monkeypatch, Terminal())
    assert all(word in text for word in ("Choosing what goes", "Tuning, epoch 1", "Fields", "a line"))


def test_a_pipe_gets_lines_but_no_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, io.StringIO()) == "a line\n"


def test_quiet_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, Terminal(), silent=True).replace("\n", "") == ""
