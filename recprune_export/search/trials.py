"""`Trials`: a model compressed at one operating point after another, each saved on disk, so that a search can be resumed."""

import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

from recprune_export.codec import FLATTENED, DictMixin, decode
from recprune_export.distributed.main_process import call_on_main
from recprune_export.evidence import Verdict, judge_at_most
from recprune_export.finetuning.rounded_weights import with_rounded_weights
from recprune_export.finetuning.task import Task, run_program
from recprune_export.metrics._paired_change import MetricChange
from recprune_export.onnx.export import OnnxFile, export_onnx
from recprune_export.output_files import optional_output
from recprune_export.pipeline._fingerprint import fingerprint
from recprune_export.pipeline._prune import SearchPrefix, prune, run_search_prefix
from recprune_export.pipeline.export_models import make_serving_config
from recprune_export.program.program import Program
from recprune_export.search.measure_artifact import ArtifactMeasurements, measure_artifact
from recprune_export.search.operating_point import OperatingPoint
from recprune_export.search.trial_files import write_json
from recprune_export.settings import Settings
from recprune_export.stored_bits import StoredBits


@dataclass(frozen=True)
class Trial(DictMixin):
    """The change of the metric of the validation rows at one operating point and seed, from dense to pruned and tuned.

    The metric of weights in few bits is that of the rounded ones. `artifact` is not None where the search measures size and
    speed as well; the metric of a quantized one is its own.
    """

    point: OperatingPoint
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


@dataclass(frozen=True)
class _Compressed:
    """A program with the settings of its point, and the bits of its weights where they were planned."""

    program: Program
    settings: Settings
    bits: StoredBits | None = None

    @property
    def served(self) -> Program:
        """The program that answers with rounded weights."""
        return self.program if self.bits is None else with_rounded_weights(self.program, self.bits)


class Trials:
    """Runs each trial once; with a `file` it reads those of an earlier run on the same model, rows and settings.

    The dense model is exported at most once, into a temporary folder that is removed with the object: with `artifacts` all
    files are timed against it, and its bytes are those of which byte limits are fractions.
    """

    def __init__(
        self, program: Program, settings: Settings, task: Task, file: Path | None = None, *, artifacts: bool = False
    ) -> None:
        self._program, self._settings, self._task, self._file = program, settings, task, file
        self._artifacts = artifacts
        extra = [asdict(settings.latency), asdict(settings.quantization)] if artifacts else []
        # Operating point and seed are those of each trial.
        pruning = replace(settings.pruning.at_sparsity(0.0), max_bytes=None, max_microseconds=None)
        self._key = call_on_main(lambda: fingerprint(program, pruning, settings.finetuning, task, extra=extra))
        self._prefixes: dict[int, SearchPrefix] = {}  # by the seed
        self._trials: dict[tuple[OperatingPoint, int], Trial] = {}
        if file is not None:
            earlier = call_on_main(partial(_read_trials, file, self._key))
            self._trials = {(t.point, t.seed): t for t in earlier}

    @cached_property
    def _dense_file(self) -> OnnxFile:
        """The dense model as an ONNX file, against which all trials are timed."""
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return export_onnx(self._program, Path(folder) / "dense.onnx", rewrites=())

    @property
    def dense_bytes(self) -> int:
        """The bytes of the dense model as an ONNX file."""
        return call_on_main(lambda: self._dense_file.bytes)

    @property
    def completed(self) -> tuple[Trial, ...]:
        """All trials so far, by kind and value of their points."""
        return tuple(self._trials[key] for key in sorted(self._trials))

    def search_prefix(self, seed: int) -> SearchPrefix | None:
        """Return the common work of the trials of a seed; None where all of them were read from the file."""
        return self._prefixes.get(seed)

    def run(self, point: OperatingPoint, seed: int | None = None) -> Trial:
        """Compress and compare with the dense program, or return the trial of an earlier run.

        Raises `TooFewBytes` where no plan is as small as the point asks for.
        """
        key = (point, self._settings.seed if seed is None else seed)
        if key not in self._trials:
            compressed = self._compress(*key)
            self._trials[key] = call_on_main(partial(self._measure, key, compressed))
            call_on_main(self._save)
        return self._trials[key]

    def settings_at(self, point: OperatingPoint) -> Settings:
        """Return the settings of a trial at a point."""
        return point.apply(self._settings, self.dense_bytes if point.kind == "bytes" else 0)

    def _compress(self, point: OperatingPoint, seed: int) -> _Compressed:
        """Return the program of a point, pruned and tuned; the dense one where nothing is removed."""
        settings = self.settings_at(point)
        if point.kind == "dense int8":
            return _Compressed(self._program, settings)
        self._prefixes[seed] = run_search_prefix(
            self._program, settings.pruning, settings.finetuning, self._task,
            seed=seed, prefix=self._prefixes.get(seed), serving=make_serving_config(settings),
        )  # fmt: skip
        pruned = prune(
            self._program, settings.pruning, settings.finetuning, self._task,
            seed=seed, search_prefix=self._prefixes[seed], serving=make_serving_config(settings),
        )  # fmt: skip
        storage = pruned.plan.storage
        return _Compressed(pruned.program, settings, None if storage is None else storage.bits)

    def _measure(self, key: tuple[OperatingPoint, int], compressed: _Compressed) -> Trial:
        artifact, change = None, None
        if self._artifacts:
            settings = compressed.settings
            artifact, change = measure_artifact(
                self._program, self._dense_file.path, compressed.program, settings.latency, settings.quantization,
                self._task, bits=compressed.bits, seed=settings.seed, runtime=settings.export.runtime,
            )  # fmt: skip
        if change is None:
            served = compressed.served
            change = self._task.change(partial(run_program, self._program), partial(run_program, served))
        return Trial(*key, change, artifact)

    def _save(self) -> None:
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
