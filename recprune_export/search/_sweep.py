"""`sweep`: quality, size and speed over sparsity, and where the knee is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from recprune_export.codec import ToDictMixin
from recprune_export.search.knee import knee
from recprune_export.search.measure_artifact import ArtifactMeasurements
from recprune_export.search.trial_files import write_json
from recprune_export.search.trials import Trial, Trials

SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Sweep(ToDictMixin):
    """Trials in the order of rising sparsity, and the position of the knee, if there is one."""

    ENCODED = ("knee_sparsity", "trials")
    PROPERTY_NAMES: ClassVar[Mapping[str, str]] = {"knee_sparsity": "knee"}

    trials: tuple[Trial, ...]
    knee: int | None

    @property
    def knee_sparsity(self) -> float | None:
        """The sparsity at the knee."""
        return None if self.knee is None else self.trials[self.knee].sparsity

    def save(self, path: Path, model: Mapping[str, str] | None = None) -> None:
        """Write JSON, with the identity of the `model` file. Raises `UsageError` where it cannot be written."""
        write_json(path, {"model": None if model is None else dict(model), **self.to_dict()})


def sweep(trials: Trials, sparsities: Sequence[float], report: Callable[[Trial], None] = lambda trial: None) -> Sweep:
    """Run a trial at every sparsity; `trials` must measure artifacts."""
    results = []
    for sparsity in sorted(set(sparsities)):
        results.append(trials.run(sparsity))
        report(results[-1])
    time_saved = [1.0 - 1.0 / _artifact(trial).overall.estimate for trial in results]  # fraction of the dense time
    return Sweep(tuple(results), knee(time_saved, [trial.change.change for trial in results]))


def _artifact(trial: Trial) -> ArtifactMeasurements:
    assert trial.artifact is not None, "these trials did not measure artifacts"
    return trial.artifact
