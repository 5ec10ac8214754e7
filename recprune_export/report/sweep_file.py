"""Read `sweep.json` for the report, without importing the sweep itself."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.errors import InputFileError

SWEEP = "sweep.json"
KINDS = ("sparsity", "bytes", "dense int8")


@dataclass(frozen=True)
class QualityTrial:
    """Trial of one point: the change of the metric from the dense model, with its interval.

    `kind` is "sparsity", "bytes" or "dense int8", and `value` the sparsity, or the fraction of the dense file's bytes.
    """

    kind: str
    value: float
    change: float
    low: float
    high: float

    @property
    def mark(self) -> str:
        """The point in the few characters that fit into a picture."""
        return {"bytes": f"{100.0 * self.value:.3g} %", "dense int8": "int8"}.get(self.kind, f"{self.value:g}")

    @property
    def label(self) -> str:
        """The point in words."""
        return {"bytes": f"{self.mark} of the bytes", "dense int8": self.kind}.get(self.kind, f"sparsity {self.mark}")


@dataclass(frozen=True)
class SweepTrial(QualityTrial):
    """Trial that was also exported and timed: bytes of the file, and speed-up by batch as (estimate, low, high)."""

    bytes: int
    speedup: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True)
class SweepFile:
    """Trials, by increasing compression within each kind, at least one.

    `knee` is a sparsity; `model` the SHA-256 of the dense model's file, if it came from a file.
    """

    metric: str
    trials: tuple[SweepTrial, ...]
    knee: float | None
    model: str | None


def read_sweep(path: Path) -> SweepFile:
    """Read the results of `recprune-export sweep` from their folder or file.

    Raises `InputFileError` if there are none, or they are damaged.
    """
    file = path / SWEEP if path.is_dir() else path
    try:
        return _read(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputFileError(
            f"{file} cannot be read: {error.strerror}. It is written by `recprune-export sweep`."
        ) from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputFileError(f"{file} is not a result of `recprune-export sweep`: run the sweep again.") from error


def find_sweep(manifest: Manifest, bundle: Path, path: Path | None) -> SweepFile | None:
    """Return the sweep at `path`, or one of the same model next to the bundle; None if there is none.

    A sweep next to the bundle is `<name>-sweep`, with the name of the bundle or of the model's file.

    Raises `InputFileError` if the sweep at `path` is of another model.
    """
    model_sha256 = (manifest.settings.get("model_file") or {}).get("sha256")
    if path is not None:
        sweep = read_sweep(path)
        if None not in (model_sha256, sweep.model) and model_sha256 != sweep.model:
            raise InputFileError(
                f"{path} is a sweep of another model than that of {bundle}: run a sweep of the same model."
            )
        return sweep
    names = [bundle.resolve().name, Path(str(manifest.settings.get("model") or "model")).stem]
    for name in names:
        folder = bundle.resolve().parent / f"{name}-sweep"
        if model_sha256 is not None and (folder / SWEEP).is_file():
            sweep = read_sweep(folder)
            if sweep.model == model_sha256:
                return sweep
    return None


def _read(values: Mapping[str, Any]) -> SweepFile:
    trials = tuple(_trial(trial) for trial in values["trials"])
    if any(set(trial.speedup) != set(trials[0].speedup) for trial in trials):
        raise ValueError("all trials are measured at the same batch sizes")
    model = (values.get("model") or {}).get("sha256")
    knee = values["knee"]
    return SweepFile(str(values["trials"][0]["metric"]), trials, None if knee is None else float(knee), model)


def read_quality_trial(values: Mapping[str, Any]) -> QualityTrial:
    """Read one trial of `sweep.json`, or of the section `trials` of a manifest. Raises `ValueError` for unknown or infinite ones."""
    low, high = map(float, values["interval"])
    change = float(values["after"]) - float(values["before"])
    if not all(map(math.isfinite, (change, low, high))):
        raise ValueError("a value of a trial is not finite")
    # earlier sweeps had only sparsities
    point = values.get("point") or {"kind": "sparsity", "value": values["sparsity"]}
    if point["kind"] not in KINDS:
        raise ValueError("this kind of point is unknown")
    return QualityTrial(point["kind"], float(point["value"]), change, low, high)


def _trial(values: Mapping[str, Any]) -> SweepTrial:
    trial, artifact = read_quality_trial(values), values["artifact"]
    speedup = {str(int(batch)): tuple(map(float, estimates)) for batch, estimates in artifact["speedup"].items()}
    if not speedup or any(len(estimates) != 3 for estimates in speedup.values()):
        raise ValueError("a speed-up is an estimate and its interval")
    if not all(math.isfinite(end) for estimates in speedup.values() for end in estimates):
        raise ValueError("a value of a trial is not finite")
    return SweepTrial(**vars(trial), bytes=int(artifact["bytes"]), speedup=speedup)  # type: ignore[arg-type]
