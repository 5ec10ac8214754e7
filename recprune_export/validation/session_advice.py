"""Which session options suit a model on this machine: tried one by one, kept where they win beyond doubt."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recprune_export.environment import cores
from recprune_export.onnx.session import DEFAULT_OPTIONS, SessionOptions
from recprune_export.progress import bar
from recprune_export.validation.contestants import in_onnxruntime
from recprune_export.validation.rotation import Rotations
from recprune_export.validation.seatings import log_ratio, measure_seatings
from recprune_export.validation.statistics import Estimate, interval_of_few

SEATINGS = 4
FEWEST = 6  # rounds in a seating
GAIN = 1.03  # times faster that a change must be to be worth a line of code
THREADS_GAIN = 1.2  # the same for more threads: they take cores from the requests beside this one
PLAIN = "plain"


@dataclass(frozen=True)
class Trial:
    """How many times faster than plain options these are, over all batch sizes (geometric mean)."""

    options: SessionOptions
    speedup: Estimate


@dataclass(frozen=True)
class SessionAdvice:
    """The options to serve with, and the trials that speak for them."""

    options: SessionOptions
    batches: tuple[int, ...]
    trials: Mapping[str, Trial]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        speedups = {name: asdict(trial.speedup) for name, trial in self.trials.items()}
        return {"options": self.options.to_dict(), "batches": list(self.batches), "speedups": speedups}


def advise_session(
    path: Path,
    requests: Rotations,
    *,
    plain: SessionOptions = DEFAULT_OPTIONS,
    most_threads: int | None = None,
    seconds: float = 2.0,
    seed: int = 0,
) -> SessionAdvice:
    """Try single changes to `plain` on a model and these batch sizes; combine those that are faster beyond doubt.

    Takes about `seconds` for the trials, half as much for the combination, and the time to load the model for each.
    Up to `most_threads` (all cores) are tried.
    """
    batches = tuple(requests)
    singles = candidates(plain, most_threads or cores())
    trials = _race(path, requests, plain, singles, seconds, seed)
    chosen = combine(plain, list(trials.values()))
    if len(chosen.differences(plain)) > 1 and chosen not in singles:
        together = _race(path, requests, plain, [chosen], seconds / 2, seed + 1)
        trials |= together
        chosen = best(plain, list(trials.values()))
    return SessionAdvice(chosen, batches, trials)


def candidates(plain: SessionOptions, most_threads: int) -> list[SessionOptions]:
    """Return what to try: one change at a time; threads with and without spinning."""
    changes: list[dict[str, Any]] = [{"arena": False}, {"prepacking": False}, {"optimization": "extended"}]
    changes.append({"optimization": "basic"})
    if most_threads > plain.threads:
        changes += [{"threads": most_threads}, {"threads": most_threads, "spinning": False}]
    return [replace(plain, **change) for change in changes]


def combine(plain: SessionOptions, trials: Sequence[Trial]) -> SessionOptions:
    """Return `plain` with the changes of every trial that won; of trials that change the same, the fastest."""
    chosen = plain
    for trial in sorted((trial for trial in trials if won(plain, trial)), key=lambda trial: trial.speedup.estimate):
        changed = {k: v for k, v in trial.options.to_dict().items() if v != plain.to_dict()[k]}
        if "threads" in changed:
            changed["spinning"] = trial.options.spinning
        chosen = replace(chosen, **changed)
    return chosen


def best(plain: SessionOptions, trials: Sequence[Trial]) -> SessionOptions:
    """Return the options of the fastest trial that won, or `plain`."""
    winners = [trial for trial in trials if won(plain, trial)]
    return max(winners, key=lambda trial: trial.speedup.estimate).options if winners else plain


def won(plain: SessionOptions, trial: Trial) -> bool:
    """Say whether a trial is faster than `plain` by what its changes must gain, beyond doubt."""
    return trial.speedup.low > (THREADS_GAIN if trial.options.threads > plain.threads else GAIN)


def _race(
    path: Path,
    requests: Rotations,
    plain: SessionOptions,
    others: Sequence[SessionOptions],
    seconds: float,
    seed: int,
) -> dict[str, Trial]:
    named = {PLAIN: plain} | {", ".join(options.differences(plain)): options for options in others}
    makers = {
        name: lambda name=name, options=options: in_onnxruntime(name, path, options=options)
        for name, options in named.items()
    }
    with bar("Trying session options", SEATINGS) as advance:
        seatings = measure_seatings(
            makers,
            requests,
            count=SEATINGS,
            seconds=seconds / SEATINGS / len(requests),
            rng=np.random.default_rng(seed),
            fewest=FEWEST,
            advance=advance,
        )
    trials = {}
    for name, options in named.items():
        if name != PLAIN:
            gains = np.array([[log_ratio(of, PLAIN, name) for of in s.values()] for s in seatings]).mean(axis=1)
            found = interval_of_few(gains, lambda values: values.mean(axis=-1), confidence=0.95, seed=seed)
            trials[name] = Trial(options, Estimate(*np.exp([found.estimate, found.low, found.high]).tolist()))
    return trials
