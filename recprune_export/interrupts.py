"""`block_interrupts`: processes that are started in this block leave Ctrl-C to the process that started them."""

import contextlib
import signal
from collections.abc import Iterator
from multiprocessing import resource_tracker


@contextlib.contextmanager
def block_interrupts() -> Iterator[None]:
    """Block SIGINT in this thread until the block ends; an interrupt that came meanwhile is raised then.

    A terminal sends Ctrl-C to all processes of a job. Processes inherit what is blocked, so this one alone is interrupted, and ends the
    others. Without effect where the system has no masks of signals.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which would allow interrupts again when it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
