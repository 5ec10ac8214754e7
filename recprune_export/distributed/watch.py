"""`Watch`: a thread that ends this process soon after another one of the run has failed or ended, whatever this process is doing."""

import _thread
import io
import os
import sys
import threading
import time
from dataclasses import replace
from typing import Self

from recprune_export.distributed.lost_process import (
    LostProcess,
    describe_ended,
    describe_failure,
    find_ended_ranks,
    read_failure,
    read_processes,
    speaks_for_all,
)
from recprune_export.distributed.main_process import FINISHED
from recprune_export.distributed.ranks import Run

INTERVAL, GRACE = 0.5, 4.0  # seconds: between looks, and for the main thread to end by itself


class Watch:
    """Watches the other processes inside the block.

    The error of a collective, or SIGTERM by torchrun, usually ends the main thread first; if it computes or waits elsewhere, it is
    interrupted as by Ctrl-C, and if that does not help, the process ends without it.
    """

    def __init__(self, run: Run) -> None:
        self._run = replace(run, store=run.store.clone())  # the main thread may block the other connection
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()

    def _watch(self) -> None:
        processes = read_processes(self._run)
        while not self._done.wait(INTERVAL):
            if len(processes) < self._run.world_size - 1:
                processes = read_processes(self._run)
            failure = read_failure(self._run.store)
            if failure is not None and failure.rank != self._run.rank:
                return self._end(describe_failure(failure))
            if failure is not None:
                return None  # this process is ending on its own
            ended = find_ended_ranks(processes)
            if ended and not self._is_finished():
                return self._end(describe_ended(ended))
        return None

    def _is_finished(self) -> bool:
        """Return whether the first process has finished, so that others may end."""
        try:
            return bool(self._run.store.check([FINISHED]))
        except Exception:
            return False

    def _end(self, error: LostProcess) -> None:
        if self._done.wait(GRACE / 2):
            return
        if speaks_for_all(self._run):
            stream = sys.__stderr__ or sys.stderr
            stream.write(f"Error: {error}\n")
            stream.flush()
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()  # the interruption has no message
        _thread.interrupt_main()
        time.sleep(GRACE / 2)
        os._exit(error.exit_code)
