"""`block_interrupts`: processes that are started in this block ignore Ctrl-C, which their parent process handles."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from multiprocessing import resource_tracker
from types import FrameType


@contextlib.contextmanager
def block_interrupts() -> Iterator[None]:
    """Block SIGINT until the block ends; an interrupt that arrives meanwhile is raised then.

    A terminal sends Ctrl-C to all processes of a job. Processes inherit the signals that this thread blocks, so only this
    process is interrupted, and it ends the others. Another thread may receive the signal, and Python then interrupts the main
    thread, so its handler waits as well.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    received: list[tuple[int, FrameType | None]] = []
    handler = signal.getsignal(signal.SIGINT)
    waits = callable(handler) and threading.current_thread() is threading.main_thread()
    if waits:
        signal.signal(signal.SIGINT, lambda number, frame: received.append((number, frame)))
    resource_tracker.ensure_running()  # which would allow interrupts again when it is started
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if waits:
            signal.signal(signal.SIGINT, handler)
            if received and callable(handler):
                handler(*received[0])
