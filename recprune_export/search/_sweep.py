"""`sweep`: measure quality, size and speed over sparsities, over bytes and of the dense model in int8."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from recprune_export.codec import ToDictMixin
from recprune_export.errors import TooFewBytes
from recprune_export.evidence import Verdict
from recprune_export.pipeline.quality_warning import find_usual_allowance
from recprune_export.search.knee import knee
from recprune_export.search.measure_artifact import ArtifactMeasurements
from recprune_export.search.operating_point import OperatingPoint, make_dense_int8_point
from recprune_export.search.recommend_point import Recommendation, recommend_point
from recprune_export.search.trial import Trial, TrialKey
from recprune_export.search.trial_files import write_json
from recprune_export.search.trials import Trials
from recprune_export.search.workers.schedule import tune_in_workers
from recprune_export.search.workers.tuning_workers import TuningWorkers

SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
BYTE_FRACTIONS = (0.3, 0.2, 0.1, 0.07, 0.05, 0.03)


@dataclass(frozen=True)
class Sweep(ToDictMixin):
    """Trials by increasing compression: first sparsities, then bytes, then the dense model in int8; with the position of the knee among
    the sparsities, if there is one, and the recommended point.
    """

    ENCODED = ("knee_sparsity", "recommendation", "trials")
    PROPERTY_NAMES: ClassVar[Mapping[str, str]] = {"knee_sparsity": "knee"}

    trials: tuple[Trial, ...]
    knee: int | None
    recommendation: Recommendation

    @property
    def knee_sparsity(self) -> float | None:
        """The sparsity at the knee."""
        return None if self.knee is None else self.trials[self.knee].point.value

    def save(self, path: Path, model: Mapping[str, str] | None = None) -> None:
        """Write JSON, with the identity of the `model` file. Raises `UsageError` if it cannot be written."""
        write_json(path, {"model": None if model is None else dict(model), **self.to_dict()})


def list_points(
    sparsities: Sequence[float], byte_fractions: Sequence[float], *, dense_int8: bool = True
) -> tuple[OperatingPoint, ...]:
    """Return the points of a sweep, each once, in the order of its trials."""
    by_sparsity = [OperatingPoint("sparsity", s) for s in sorted(set(sparsities))]
    by_bytes = [OperatingPoint("bytes", fraction) for fraction in sorted(set(byte_fractions), reverse=True)]
    return (*by_sparsity, *by_bytes, *([make_dense_int8_point()] if dense_int8 else []))


def sweep(
    trials: Trials,
    points: Sequence[OperatingPoint],
    report: Callable[[Trial], None] = lambda trial: None,
    *,
    max_drop: float | None = None,
    report_missing: Callable[[str], None] = lambda text: None,
) -> Sweep:
    """Run a trial at every point; `trials` must measure artifacts. A point for which no plan is small enough is reported and left out.

    Points tuned by `tune_points` are only timed. The recommended point may lose `max_drop` of the metric, by default an amount
    that is negligible for that metric.

    Raises `TooFewBytes` if no point is left.
    """
    results: list[Trial] = []
    missing: TooFewBytes | None = None
    for point in points:
        try:
            results.append(trials.run(point))
        except TooFewBytes as error:
            missing = error
            report_missing(f"{point.label}: no plan for this model is this small")
            continue
        report(results[-1])
    if missing is not None and not results:
        raise missing
    position = find_knee([trial for trial in results if trial.point.kind == "sparsity"])
    drop = find_usual_allowance(results[0].change) if max_drop is None else max_drop
    return Sweep(tuple(results), position, recommend_point(results, drop))


def tune_points(
    trials: Trials,
    points: Sequence[OperatingPoint],
    workers: TuningWorkers | None = None,
    report: Callable[[str], None] = lambda text: None,
) -> None:
    """Prune and tune at all points that are not finished, in `workers` or in this process, without timing."""
    keys = [trials.make_key(point) for point in points]

    def list_missing() -> list[TrialKey]:
        return [key for key in keys if not trials.is_tuned(key)]

    def report_tuned(key: TrialKey) -> None:
        few = trials.has_too_few_bytes(key)
        report(f"{key[0].label}: {'no plan for this model is this small' if few else 'pruned and tuned'}")

    missing = list_missing()
    if workers is not None:
        tune_in_workers(trials, list_missing, workers, "Pruning and tuning", len(missing), report_tuned)
        return
    for key in missing:
        with suppress(TooFewBytes):  # the folder is kept
            trials.tune(key)
        report_tuned(key)


def find_knee(trials: Sequence[Trial]) -> int | None:
    """Return the position of the knee; None if the metric does not significantly fall beyond it, so that the bend may be noise."""
    time_saved = [1.0 - 1.0 / _artifact(trial).overall.estimate for trial in trials]  # fraction of the dense time
    position = knee(time_saved, [trial.change.change for trial in trials])
    if position is None or all(trial.judge(0.0) is not Verdict.FAILS for trial in trials[position + 1 :]):
        return None
    return position


def _artifact(trial: Trial) -> ArtifactMeasurements:
    assert trial.artifact is not None, "these trials contain no measurements of files"
    return trial.artifact
