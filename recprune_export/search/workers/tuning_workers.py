"""`TuningWorkers`: the processes of `--jobs`."""

import multiprocessing
import pickle
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from recprune_export.environment import count_cores
from recprune_export.errors import UsageError
from recprune_export.interrupts import block_interrupts
from recprune_export.search.trial import TrialKey
from recprune_export.search.trials import Trials
from recprune_export.search.tuner import TunedModel
from recprune_export.search.workers.tuning_process import OpenJob, start_process, tune_in_process
from recprune_export.settings import Settings


class TuningWorkers:
    """Up to `jobs` processes that prune and tune; they are started when they are needed, and end with the block.

    Each is a new Python process (spawned, since threads do not survive a fork), which loads the job and keeps it: each process needs the
    memory of the model, of the rows and of its largest trial. Each has an equal part of the cores of this process
    as threads, at least one, and no more than PyTorch has here. On Ctrl-C, and when this process is killed, they end immediately.

    Raises `UsageError` if a model or rows in memory cannot be pickled.
    """

    def __init__(self, open_job: OpenJob, settings: Settings, jobs: int) -> None:
        self.jobs, self._settings = jobs, settings
        self.threads = max(1, min(torch.get_num_threads(), count_cores() // jobs))
        try:
            self._pickled_job = pickle.dumps(open_job)
        except Exception as error:  # classes of users may raise anything
            raise UsageError(
                "With --jobs, the model and the rows are loaded in other processes, but these objects cannot be "
                "pickled: give paths of files."
            ) from error
        self._executor: ProcessPoolExecutor | None = None
        self.processes: set[BaseProcess] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End the processes, including busy ones, whose work is no longer needed. `submit` starts new ones."""
        if self._executor is not None:
            for process in self.processes:
                process.terminate()
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None

    def submit(self, trials: Trials, key: TrialKey, folder: Path) -> "Future[TunedModel]":
        """Start tuning at a point; an ONNX file is written into `folder`."""
        point, seed = key
        settings = trials.settings_at(point)
        # processes inherit the blocked signal: Ctrl-C reaches only this one, which ends the others
        with block_interrupts():
            before = set(multiprocessing.active_children())
            if self._executor is None:
                self._executor = ProcessPoolExecutor(
                    self.jobs,
                    multiprocessing.get_context("spawn"),
                    start_process,
                    (self._pickled_job, self._settings, trials.artifacts, trials.key, self.threads),
                )
            try:
                future = self._executor.submit(tune_in_process, point, settings, seed, folder)
            except BrokenProcessPool as error:
                raise make_dead_process_error() from error
            self.processes |= set(multiprocessing.active_children()) - before
        return future


def make_dead_process_error() -> UsageError:
    """Return the error of a process that ended before its trial was done."""
    return UsageError(
        "A process of --jobs ended before its trial was finished, possibly because of too little memory: use fewer --jobs. "
        "Finished trials are saved."
    )
