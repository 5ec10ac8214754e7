"""`sweep`: quality, size and speed over sparsity, and where the knee is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from recprune_export.codec import ToDictMixin
from recprune_export.evidence import Verdict
from recprune_export.pipeline.quality_warning import find_usual_allowance
from recprune_export.search.knee import knee
from recprune_export.search.measure_artifact import ArtifactMeasurements
from recprune_export.search.recommend_sparsity import Recommendation, recommend_sparsity
from recprune_export.search.trial_files import write_json
from recprune_export.search.trials import Trial, Trials

SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Sweep(ToDictMixin):
    """Trials in the order of rising sparsity, the position of the knee, if there is one, and the recommended sparsity."""

    ENCODED = ("knee_sparsity", "recommendation", "trials")
    PROPERTY_NAMES: ClassVar[Mapping[str, str]] = {"knee_sparsity": "knee"}

    trials: tuple[Trial, ...]
    knee: int | None
    recommendation: Recommendation

    @property
    def knee_sparsity(self) -> float | None:
        """The sparsity at the knee."""
        return None if self.knee is None else self.trials[self.knee].sparsity

    def save(self, path: Path, model: Mapping[str, str] | None = None) -> None:
        """Write JSON, with the identity of the `model` file. Raises `UsageError` where it cannot be written."""
        write_json(path, {"model": None if model is None else dict(model), **self.to_dict()})


def sweep(
    trials: Trials,
    sparsities: Sequence[float],
    report: Callable[[Trial], None] = lambda trial: None,
    *,
    max_drop: float | None = None,
) -> Sweep:
    """Run a trial at every sparsity; `trials` must measure artifacts.

    The recommended sparsity may cost `max_drop` of the metric, by default what is negligible for that metric.
    """
    results = []
    for sparsity in sorted(set(sparsities)):
        results.append(trials.run(sparsity))
        report(results[-1])
    position = find_knee(results)
    drop = find_usual_allowance(results[0].change) if max_drop is None else max_drop
    return Sweep(tuple(results), position, recommend_sparsity(results, position, drop))


def find_knee(trials: Sequence[Trial]) -> int | None:
    """Return the position of the knee; None where the metric certainly falls nowhere beyond it, so that a bend is noise."""
    time_saved = [1.0 - 1.0 / _artifact(trial).overall.estimate for trial in trials]  # fraction of the dense time
    position = knee(time_saved, [trial.change.change for trial in trials])
    if position is None or all(trial.judge(0.0) is not Verdict.FAILS for trial in trials[position + 1 :]):
        return None
    return position


def _artifact(trial: Trial) -> ArtifactMeasurements:
    assert trial.artifact is not None, "these trials did not measure artifacts"
    return trial.artifact
