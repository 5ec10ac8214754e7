"""The progress bar of the package: on stderr, removed at the end, hidden on request or without a terminal."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TypeVar

from recprune_export.terminal_text import escape_for_terminal, escape_line

T = TypeVar("T")
Advance = Callable[[str], None]

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def quiet(active: bool = True) -> Iterator[None]:
    """Show no progress bars inside the block."""
    token = _quiet.set(active)
    try:
        yield
    finally:
        _quiet.reset(token)


def print_status(text: str) -> None:
    """Print one line on stderr, unless inside `quiet`."""
    if not _quiet.get():
        with suppress(OSError):
            sys.stderr.write(f"{escape_for_terminal(text)}\n")
            sys.stderr.flush()


def print_warning(text: str) -> None:
    """Print one line on stderr, inside `quiet` as well; a stderr that cannot be written is ignored."""
    with suppress(OSError):
        sys.stderr.write(f"Warning: {escape_for_terminal(text)}\n")
        sys.stderr.flush()


@contextmanager
def progress_bar(description: str, total: int | None) -> Iterator[Advance]:
    """Show a bar inside the block; the yielded function advances it by one step and, unless empty, changes the text.

    >>> with quiet(), progress_bar("counting", total=2) as advance:
    ...     advance("")
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if _quiet.get() or not console.is_terminal:  # before rich 15, a disabled bar writes empty lines
        yield lambda text: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(escape_line(description), total=total)

        def advance(text: str) -> None:
            progress.update(task, advance=1, description=escape_line(text) or None)

        yield advance


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
