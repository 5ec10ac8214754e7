"""`sweep.json` as the report reads it: the file alone, without what wrote it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.errors import InputFileError

SWEEP = "sweep.json"


@dataclass(frozen=True)
class SweepTrial:
    """One sparsity: the change of quality with its interval, bytes, and the speed-up by batch as estimate, low and high."""

    sparsity: float
    change: float
    low: float
    high: float
    bytes: int
    speedup: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True)
class SweepFile:
    """The trials by rising sparsity, at least one; `model` is the SHA-256 of the dense model's file, where it had one."""

    metric: str
    trials: tuple[SweepTrial, ...]
    knee: float | None
    model: str | None


def read_sweep(path: Path) -> SweepFile:
    """Read the results of `recprune-export sweep`: a folder, or the file in it.

    Raises `InputFileError` where there are none, or they are damaged.
    """
    file = path / SWEEP if path.is_dir() else path
    try:
        return _read(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputFileError(f"{file} cannot be read: {error.strerror}. `recprune-export sweep` writes it.") from error
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputFileError(f"{file} is not what `recprune-export sweep` writes: sweep again.") from error


def find_sweep(manifest: Manifest, bundle: Path, path: Path | None) -> SweepFile | None:
    """Return the sweep that the user names, or the one beside the bundle that is of the same model; else None.

    Beside means `<name>-sweep`, by the name of the bundle or of the model's file.

    Raises `InputFileError` where the one that was named is of another model.
    """
    own = (manifest.settings.get("model_file") or {}).get("sha256")
    if path is not None:
        found = read_sweep(path)
        if None not in (own, found.model) and own != found.model:
            raise InputFileError(f"{path} is the sweep of another model than {bundle} was made of: sweep that model.")
        return found
    names = [bundle.resolve().name, Path(str(manifest.settings.get("model") or "model")).stem]
    for name in names:
        beside = bundle.resolve().parent / f"{name}-sweep"
        if own is not None and (beside / SWEEP).is_file():
            found = read_sweep(beside)
            if found.model == own:
                return found
    return None


def _read(values: Mapping[str, Any]) -> SweepFile:
    trials = tuple(_trial(trial) for trial in values["trials"])
    if any(set(trial.speedup) != set(trials[0].speedup) for trial in trials):
        raise ValueError("all trials are measured at the same batch sizes")
    model = (values.get("model") or {}).get("sha256")
    knee = values["knee"]
    return SweepFile(str(values["trials"][0]["metric"]), trials, None if knee is None else float(knee), model)


def _trial(values: Mapping[str, Any]) -> SweepTrial:
    low, high = map(float, values["interval"])
    artifact = values["artifact"]
    speedup = {str(int(batch)): tuple(map(float, of)) for batch, of in artifact["speedup"].items()}
    if not speedup or any(len(of) != 3 for of in speedup.values()):
        raise ValueError("a speed-up is an estimate and its interval")
    change = float(values["after"]) - float(values["before"])
    if not all(map(math.isfinite, (change, low, high, *(v for of in speedup.values() for v in of)))):
        raise ValueError("a figure of a trial is no number")
    return SweepTrial(float(values["sparsity"]), change, low, high, int(artifact["bytes"]), speedup)  # type: ignore[arg-type]
