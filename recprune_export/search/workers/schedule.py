"""`tune_in_workers`: keep all processes busy with the trials that are needed."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from recprune_export.errors import TooFewBytes
from recprune_export.progress import progress_bar
from recprune_export.search.trial import TrialKey
from recprune_export.search.trials import Trials
from recprune_export.search.tuner import TunedModel
from recprune_export.search.workers.tuning_workers import TuningWorkers, make_dead_process_error

WAKE_UP = 0.5  # seconds


@dataclass(frozen=True)
class _Running:
    key: TrialKey
    folder: Path
    stack: ExitStack  # removes the folder


def tune_in_workers(
    trials: Trials,
    choose: Callable[[], Sequence[TrialKey]],
    workers: TuningWorkers,
    description: str,
    total: int | None = None,
    report: Callable[[TrialKey], None] = lambda key: None,
) -> None:
    """Tune at the points that `choose` returns, the most urgent first, until it returns none.

    `choose` is called again when a trial is done, and may return trials that are running. Results are added to `trials` in this process,
    the only one that writes into its folder.

    Raises `UsageError` if a process is killed, and the errors of a trial except `TooFewBytes`.
    """
    running: dict[Future[TunedModel], _Running] = {}
    with ExitStack() as folders, progress_bar(description, total) as advance:
        try:
            while needed := choose():
                busy = {trial.key for trial in running.values()}
                for key in [key for key in needed if key not in busy][: workers.jobs - len(running)]:
                    stack = folders.enter_context(ExitStack())
                    folder = stack.enter_context(trials.folder.scratch(key)) if trials.artifacts else Path()
                    running[workers.submit(trials, key, folder)] = _Running(key, folder, stack)
                finished: set[Future[TunedModel]] = set()
                while not finished:  # a signal that another thread receives is handled when this one wakes up
                    finished, _ = wait(running, timeout=WAKE_UP, return_when=FIRST_COMPLETED)
                for future in finished:
                    trial = running.pop(future)
                    _collect(trials, trial, future)
                    trial.stack.close()
                    report(trial.key)
                    advance(f"{description}: {trial.key[0].label}")
        finally:
            if running:  # otherwise they would write into their folders, which are removed now
                workers.end()


def _collect(trials: Trials, trial: _Running, future: "Future[TunedModel]") -> None:
    try:
        trials.add_tuned(trial.key, future.result(), trial.folder)
    except TooFewBytes as error:
        trials.add_too_few_bytes(trial.key, error)
    except BrokenProcessPool as error:
        raise make_dead_process_error() from error
