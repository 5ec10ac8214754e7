"""`Trials`: a model pruned and tuned at one sparsity after another, each saved on disk, so that a search can be resumed."""

import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

from recprune_export.codec import FLATTENED, DictMixin, decode
from recprune_export.evidence import Verdict, judge_at_most
from recprune_export.finetuning.task import Task, run_program
from recprune_export.metrics._paired_change import MetricChange
from recprune_export.onnx.export import export_onnx
from recprune_export.output_files import optional_output
from recprune_export.pipeline._fingerprint import fingerprint
from recprune_export.pipeline._prune import SearchPrefix, prune, run_search_prefix
from recprune_export.program.program import Program
from recprune_export.search.measure_artifact import ArtifactMeasurements, measure_artifact
from recprune_export.search.trial_files import write_json
from recprune_export.settings import Settings


@dataclass(frozen=True)
class Trial(DictMixin):
    """The change of the metric of the validation rows at one sparsity and seed, from dense to pruned and tuned.

    `artifact` is not None where the search measures size and speed as well; the metric of a quantized one is its own.
    """

    sparsity: float
    seed: int
    change: MetricChange = field(metadata=FLATTENED)
    artifact: ArtifactMeasurements | None = None

    def judge(self, max_drop: float) -> Verdict:
        """Judge the claim that the metric becomes worse by at most `max_drop`."""
        return judge_at_most(self.change.loss, max_drop)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read the result of `to_dict`. Raises `ValueError` or `KeyError` for values of another form."""
        return decode(cls, {**values, "change": MetricChange.from_dict(values)})


class Trials:
    """Runs each trial once; with a `file` it reads those of an earlier run on the same model, rows and settings.

    With `artifacts` the dense model is exported once, into a temporary folder that is removed with the object.
    """

    def __init__(
        self, program: Program, settings: Settings, task: Task, file: Path | None = None, *, artifacts: bool = False
    ) -> None:
        self._program, self._settings, self._task, self._file = program, settings, task, file
        self._artifacts = artifacts
        extra = [asdict(settings.latency), asdict(settings.quantization)] if artifacts else []
        # Sparsity and seed are those of each trial.
        self._key = fingerprint(program, settings.pruning.at_sparsity(0.0), settings.finetuning, task, extra=extra)
        self._prefixes: dict[int, SearchPrefix] = {}  # by the seed
        self._trials: dict[tuple[float, int], Trial] = {}
        if file is not None:
            self._trials = {(t.sparsity, t.seed): t for t in _read_trials(file, self._key)}

    @cached_property
    def _dense_file(self) -> Path:
        """The dense model as an ONNX file, against which all trials are timed."""
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return export_onnx(self._program, Path(folder) / "dense.onnx", rewrites=()).path

    @property
    def completed(self) -> tuple[Trial, ...]:
        """All trials so far, by sparsity."""
        return tuple(self._trials[key] for key in sorted(self._trials))

    def search_prefix(self, seed: int) -> SearchPrefix | None:
        """Return the common work of the trials of a seed; None where all of them were read from the file."""
        return self._prefixes.get(seed)

    def run(self, sparsity: float, seed: int | None = None) -> Trial:
        """Prune, tune and compare with the dense program, or return the trial of an earlier run."""
        key = (round(sparsity, 4), self._settings.seed if seed is None else seed)
        if key not in self._trials:
            self._save(key, self._prune(*key))
        return self._trials[key]

    def _prune(self, sparsity: float, seed: int) -> Program:
        pruning, finetuning = self._settings.pruning.at_sparsity(sparsity), self._settings.finetuning
        if seed not in self._prefixes:
            self._prefixes[seed] = run_search_prefix(self._program, pruning, finetuning, self._task, seed=seed)
        prefix = self._prefixes[seed]
        return prune(self._program, pruning, finetuning, self._task, seed=seed, search_prefix=prefix).program

    def _save(self, key: tuple[float, int], pruned: Program) -> None:
        artifact, change = None, None
        if self._artifacts:
            settings = self._settings
            artifact, change = measure_artifact(
                self._program, self._dense_file, pruned, settings.latency, settings.quantization, self._task,
                seed=settings.seed,
            )  # fmt: skip
        if change is None:
            change = self._task.change(partial(run_program, self._program), partial(run_program, pruned))
        self._trials[key] = Trial(*key, change, artifact)
        if self._file is not None:
            with optional_output(f"The file {self._file}, from which an interrupted search goes on,"):
                write_json(self._file, {"key": self._key, "trials": [t.to_dict() for t in self.completed]})


def _read_trials(file: Path, key: str) -> list[Trial]:
    """Return the trials of an earlier run with the same key; none where the file cannot be read."""
    try:
        values = json.loads(file.read_text())
        return [Trial.from_dict(v) for v in values["trials"]] if values["key"] == key else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
