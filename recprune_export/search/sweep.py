"""`sweep`: quality, size and speed over sparsity, and where the knee is."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recprune_export.search.artifact import Artifact
from recprune_export.search.knee import knee
from recprune_export.search.trials import Trial, Trials

SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class Sweep:
    """Trials in the order of rising sparsity, and the position of the knee, if there is one."""

    trials: tuple[Trial, ...]
    knee: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        sparsity = None if self.knee is None else self.trials[self.knee].sparsity
        return {"knee": sparsity, "trials": [t.to_dict() for t in self.trials]}

    def save(self, path: Path) -> None:
        """Write JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=1))


def sweep(trials: Trials, sparsities: Sequence[float], tell: Callable[[Trial], None] = lambda trial: None) -> Sweep:
    """Make a trial at every sparsity; `trials` must look at artifacts."""
    found = []
    for sparsity in sorted(set(sparsities)):
        found.append(trials.at(sparsity))
        tell(found[-1])
    saved = [1.0 - 1.0 / _artifact(trial).overall.estimate for trial in found]  # the share of the time that is gone
    return Sweep(tuple(found), knee(saved, [trial.change.change for trial in found]))


def _artifact(trial: Trial) -> Artifact:
    assert trial.artifact is not None, "these trials did not look at artifacts"
    return trial.artifact


def draw(found: Sweep, path: Path) -> None:
    """Write an SVG: the change of quality with its interval, the size, and the speed-up by batch size, over sparsity.

    Raises `ImportError` where matplotlib is not installed.
    """
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    x = [trial.sparsity for trial in found.trials]
    artifacts = [_artifact(trial) for trial in found.trials]
    changes = [trial.change for trial in found.trials]
    figure, (quality, size, speed) = plt.subplots(3, 1, figsize=(7.0, 8.0), sharex=True)
    errors = [[c.change - c.low for c in changes], [c.high - c.change for c in changes]]
    quality.errorbar(x, [c.change for c in changes], yerr=errors, marker="o", capsize=3)
    quality.axhline(0.0, color="grey", linewidth=0.8)
    quality.set_ylabel(f"change of {changes[0].metric}\non validation rows")
    size.plot(x, [a.bytes / 1e6 for a in artifacts], marker="o")
    size.set_ylabel("MB of the ONNX file")
    size.set_ylim(bottom=0.0)
    for batch in artifacts[0].speedup:
        speed.plot(x, [a.speedup[batch].estimate for a in artifacts], marker="o", label=f"batch {batch}")
    speed.set_ylabel("times as fast as\ndense in ONNX Runtime")
    speed.axhline(1.0, color="grey", linewidth=0.8)
    speed.legend(frameon=False)
    speed.set_xlabel("sparsity")
    for panel in (quality, size, speed):
        panel.grid(alpha=0.3)
        if found.knee is not None:
            panel.axvline(x[found.knee], color="tab:red", linestyle=":", label="knee")
    if found.knee is not None:
        quality.annotate(
            f"knee at {x[found.knee]:g}", (x[found.knee], 0.0), xycoords=("data", "axes fraction"),
            xytext=(4, 6), textcoords="offset points", color="tab:red",
        )  # fmt: skip
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
