"""The work of a process of `--jobs`: load the job at the first trial, then tune at the requested points.

This module imports no numerical libraries, because the number of threads must be set first.
"""

import os
import pickle
import threading
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from recprune_export.finetuning.task import Task
    from recprune_export.program.program import Program
    from recprune_export.search.operating_point import OperatingPoint
    from recprune_export.search.tuner import TunedModel, Tuner
    from recprune_export.settings import Settings

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS", "RAYON_NUM_THREADS")


class OpenJob(Protocol):
    """Loads the model and the rows of a job, in any process; it can be pickled."""

    def __call__(self) -> "tuple[Program, Task]": ...


class _Process:
    """The state of this process."""

    pickled_job: bytes
    settings: "Settings"
    artifacts: bool
    key: str
    threads: int
    tuner: "Tuner | None" = None


_process = _Process()


def start_process(pickled_job: bytes, settings: "Settings", artifacts: bool, key: str, threads: int) -> None:
    """Prepare this process without loading the job, so that errors occur in the first trial."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(threads)))
    _process.pickled_job, _process.settings, _process.artifacts = pickled_job, settings, artifacts
    _process.key, _process.threads = key, threads


def tune_in_process(point: "OperatingPoint", settings: "Settings", seed: int, folder: Path) -> "TunedModel":
    """Prune and tune by `settings`, those at `point`; an ONNX file is written into `folder`.

    Raises `TooFewBytes` if no plan is as small as the point requires, `UsageError` if the job that was opened here is not that
    of the requesting process.
    """
    from recprune_export.errors import ModelError
    from recprune_export.program.failures import REPORT, explain_failures
    from recprune_export.progress import quiet

    with quiet(), explain_failures("The trial", ModelError, REPORT):
        return _open_tuner().tune(point, settings, seed, folder)


def _open_tuner() -> "Tuner":
    if _process.tuner is None:
        import torch

        from recprune_export.errors import UsageError
        from recprune_export.search.tuner import Tuner

        torch.set_num_threads(_process.threads)
        open_job: OpenJob = pickle.loads(_process.pickled_job)
        program, task = open_job()
        tuner = Tuner(program, _process.settings, task, artifacts=_process.artifacts)
        if tuner.key != _process.key:
            raise UsageError(
                "A process of --jobs loaded a different model or different rows: make the factory and the "
                "files reproducible, or leave out --jobs."
            )
        _process.tuner = tuner
    return _process.tuner


def _end_with_parent() -> None:
    """End this process when its parent process has ended for any reason."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
