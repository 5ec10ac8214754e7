"""Progress on stderr: bars on a terminal, removed at the end; lines in a log, on request."""

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from recprune_export.terminal_text import escape_for_terminal, escape_line

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
Advance = Callable[[str], None]

_START = time.monotonic()
_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


_errors_only: ContextVar[bool] = ContextVar("errors_only", default=False)


@contextmanager
def quiet(active: bool = True) -> Iterator[None]:
    """Show no progress inside the block."""
    token = _quiet.set(active)
    try:
        yield
    finally:
        _quiet.reset(token)


@contextmanager
def errors_only() -> Iterator[None]:
    """Inside the block show no progress, and print no status, warnings or results of commands."""
    token = _errors_only.set(True)
    try:
        with quiet():
            yield
    finally:
        _errors_only.reset(token)


def prints_errors_only() -> bool:
    """Return whether this is inside `errors_only`."""
    return _errors_only.get()


def print_status(text: str) -> None:
    """Print one line on stderr, unless inside `quiet`."""
    if not _quiet.get():
        with suppress(OSError):
            sys.stderr.write(f"{escape_for_terminal(text)}\n")
            sys.stderr.flush()


def print_warning(text: str) -> None:
    """Print one line on stderr, unless inside `errors_only`; a stderr that cannot be written is ignored."""
    if _errors_only.get():
        return
    with suppress(OSError):
        sys.stderr.write(f"Warning: {escape_for_terminal(text)}\n")
        sys.stderr.flush()


@contextmanager
def progress_bar(description: str, total: int | None, rows_per_step: float | None = None) -> Iterator[Advance]:
    """Show a bar inside the block; the yielded function advances it by one step and, unless empty, changes the text.

    With `rows_per_step` the bar also shows rows per second.

    Without a terminal nothing is shown, except inside `print_stages`: lines with the seconds since the start.

    >>> with quiet(), progress_bar("counting", total=2) as advance:
    ...     advance("")
    """
    from rich.console import Console

    console = Console(stderr=True)
    if _quiet.get():
        yield lambda text: None
    elif console.is_terminal and sys.stderr.isatty():  # with FORCE_COLOR, rich treats every log as a terminal
        with _show_bar(console, description, total, rows_per_step) as advance:
            yield advance
    else:
        lines = _lines.get()
        with nullcontext(lambda text: None) if lines is None else lines.stage(description, total) as advance:
            yield advance


@contextmanager
def _show_bar(
    console: "Console", description: str, total: int | None, rows_per_step: float | None
) -> Iterator[Advance]:
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class RowRateColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed * (rows_per_step or 0):,.0f} rows/s")

    text, times = TextColumn("{task.description}", markup=False), (TimeElapsedColumn(), TimeRemainingColumn())
    columns = (text, BarColumn(), times[0]) if total is None else (text, BarColumn(), TaskProgressColumn(), *times)
    columns = columns if rows_per_step is None else (*columns, RowRateColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(escape_line(description), total=total)

        def advance(text: str) -> None:
            progress.update(task, advance=1, description=escape_line(text) or None)

        yield advance


class _StageLines:
    """Prints a line on stderr at the start of each outermost stage, and for inner stages if there was no line for some time."""

    QUIET_SECONDS = 3.0  # after which an inner stage, or a new text, gets a line
    SAME_TEXT_SECONDS = 10.0  # after which a stage with the same text gets one
    REMINDER_SECONDS = (
        2.5  # after which the running stage gets a line again; later in a long stage, after a tenth of its time so far
    )
    POLL_SECONDS = 0.25

    def __init__(self) -> None:
        self._last, self._began = float("-inf"), 0.0
        self._texts: list[str] = []  # the running stages, the innermost last
        self._ended, self._reminder = threading.Event(), threading.Thread(target=self._remind, daemon=True)

    @contextmanager
    def stage(self, description: str, total: int | None) -> Iterator[Advance]:
        depth = len(self._texts)
        if depth == 0:
            self._began = time.monotonic()
        self._print(description, 0.0 if depth == 0 else self.QUIET_SECONDS)
        self._texts.append(description)
        if not self._reminder.ident:
            self._reminder.start()
        steps = 0

        def advance(text: str) -> None:
            nonlocal steps
            steps += 1
            percent = f" ({steps / total:.0%})" if total else ""
            self._texts[depth] = text or self._texts[depth]
            self._print(self._texts[depth] + percent, self.QUIET_SECONDS if text else self.SAME_TEXT_SECONDS)

        try:
            yield advance
        finally:
            del self._texts[depth:]

    def end(self) -> None:
        """Print no more reminders."""
        self._ended.set()
        if self._reminder.ident:
            self._reminder.join()

    def _remind(self) -> None:
        while not self._ended.wait(self.POLL_SECONDS):
            texts = self._texts[-1:]  # a copy: the stage may end meanwhile
            if texts:
                self._print(texts[0], max(self.REMINDER_SECONDS, 0.1 * (time.monotonic() - self._began)))

    def _print(self, text: str, after: float) -> None:
        now = time.monotonic()
        if now - self._last >= after:
            self._last = now
            print_status(f"[{now - _START:6.1f} s] {escape_line(text)}")


_lines: ContextVar[_StageLines | None] = ContextVar("lines", default=None)


@contextmanager
def print_stages() -> Iterator[None]:
    """Inside the block, print stages as lines if stderr is not a terminal, such as in the log of a CI job."""
    lines = _StageLines()
    token = _lines.set(lines)
    try:
        yield
    finally:
        _lines.reset(token)
        lines.end()


@contextmanager
def show_status(description: str) -> Iterator[None]:
    """Show a description of work whose length is unknown.

    >>> with quiet(), show_status("thinking"):
    ...     pass
    """
    with progress_bar(description, None):
        yield


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` and advance a progress bar. `total` is needed if `items` has no length.

    >>> with quiet():
    ...     sum(track([1, 2, 3], "adding"))
    6
    """
    length = total if total is not None else len(items) if hasattr(items, "__len__") else None  # type: ignore[arg-type]
    with progress_bar(description, length) as advance:
        for item in items:
            yield item
            advance("")
