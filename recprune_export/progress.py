"""One progress bar for the whole product: on stderr, gone when done, silent when asked."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


@contextmanager
def quiet(active: bool = True) -> Iterator[None]:
    """Show no progress bars inside the block."""
    token = _quiet.set(active)
    try:
        yield
    finally:
        _quiet.reset(token)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` behind a progress bar on stderr.

    Raises nothing of its own. `total` is needed where `items` has no length.

    >>> with quiet():
    ...     sum(track([1, 2, 3], "adding"))
    6
    """
    if _quiet.get():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(stderr=True)
    yield from rich_track(items, description, total=total, console=console, transient=True, disable=not console.is_terminal)
