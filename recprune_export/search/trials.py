"""`Trials`: a model compressed at one operating point after another, each saved on disk, so that a search can be resumed."""

import shutil
import tempfile
import weakref
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path

from recprune_export.distributed.main_process import call_on_main
from recprune_export.distributed.ranks import is_main
from recprune_export.errors import TooFewBytes
from recprune_export.finetuning.task import Task
from recprune_export.onnx.export import OnnxFile, export_onnx
from recprune_export.pipeline._prune import SearchPrefix
from recprune_export.program.program import Program
from recprune_export.progress import show_status
from recprune_export.search.measure_artifact import measure_artifact
from recprune_export.search.operating_point import OperatingPoint
from recprune_export.search.trial import Trial, TrialKey
from recprune_export.search.trial_folder import TrialFolder
from recprune_export.search.tuner import TunedModel, Tuner
from recprune_export.settings import Settings


class Trials:
    """Runs each trial once; with a `folder` it reads those of other runs on the same model, rows and settings.

    The dense model is exported at most once, into a temporary folder that is removed with the object: with `artifacts` all files are
    timed against it, and byte limits are fractions of its bytes. Models may be tuned in other processes (`add_tuned`); all times are
    measured in this one, one after the other. With torchrun, all processes tune a model together, and the first one has the folder and
    measures.
    """

    def __init__(
        self, program: Program, settings: Settings, task: Task, folder: Path | None = None, *, artifacts: bool = False
    ) -> None:
        self._program, self._settings, self._task = program, settings, task
        self._artifacts = artifacts
        self._tuner = Tuner(program, settings, task, artifacts=artifacts)
        self.folder = TrialFolder(folder if is_main() else None, self._tuner.key)
        self.read_folder()

    @cached_property
    def _dense_file(self) -> OnnxFile:
        """The dense model as an ONNX file, against which all trials are timed."""
        folder = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        with show_status("Exporting the dense model"):
            return export_onnx(self._program, Path(folder) / "dense.onnx", rewrites=())

    @property
    def key(self) -> str:
        """The digest of everything that the trials depend on except their point and seed."""
        return self._tuner.key

    @property
    def artifacts(self) -> bool:
        """Whether trials measure the size and speed of an ONNX file."""
        return self._artifacts

    @property
    def dense_bytes(self) -> int:
        """The bytes of the dense model as an ONNX file."""
        return call_on_main(lambda: self._dense_file.bytes)

    @property
    def completed(self) -> tuple[Trial, ...]:
        """All trials so far, by kind and value of their points."""
        return tuple(self._trials[key] for key in sorted(self._trials))

    def read_folder(self) -> None:
        """Read the trials of the folder, where other processes may have saved more."""
        records = call_on_main(self.folder.read)
        self._trials, self._too_few_bytes = records.trials, records.too_few_bytes

    def make_key(self, point: OperatingPoint, seed: int | None = None) -> TrialKey:
        """Return a point with its seed, by default that of the settings."""
        return point, self._settings.seed if seed is None else seed

    def find(self, key: TrialKey) -> Trial | None:
        """Return a trial that is done."""
        return self._trials.get(key)

    def has_too_few_bytes(self, key: TrialKey) -> bool:
        """Return whether an earlier trial found that no plan is as small as a point requires."""
        return key in self._too_few_bytes

    def is_tuned(self, key: TrialKey) -> bool:
        """Return whether a trial is done, or needs only measurements."""
        return key in self._trials or key in self._too_few_bytes or self._read_tuned(key) is not None

    def search_prefix(self, seed: int) -> SearchPrefix | None:
        """Return the common work of the trials of a seed; None if none of them was tuned in this process."""
        return self._tuner.search_prefix(seed)

    def run(self, point: OperatingPoint, seed: int | None = None) -> Trial:
        """Compress and compare with the dense program, or return the trial of an earlier run.

        Raises `TooFewBytes` if no plan is as small as the point requires.
        """
        key = self.make_key(point, seed)
        if key in self._too_few_bytes:
            raise TooFewBytes(self._too_few_bytes[key])
        if key not in self._trials:
            tuned = self._read_tuned(key) or self.tune(key)
            if key not in self._trials:
                self._add_trial(key, tuned)
        return self._trials[key]

    def tune(self, key: TrialKey) -> TunedModel:
        """Prune and tune in this process; the model is saved. Raises `TooFewBytes` as `run` does."""
        with self.folder.scratch(key) if self._artifacts else nullcontext(Path()) as scratch:
            try:
                tuned = self._tuner.tune(key[0], self.settings_at(key[0]), key[1], scratch)
            except TooFewBytes as error:
                self.add_too_few_bytes(key, error)
                raise
            self.add_tuned(key, tuned, scratch)
        return self._read_tuned(key) or tuned

    def add_tuned(self, key: TrialKey, tuned: TunedModel, scratch: Path) -> None:
        """Add a model that was tuned in the folder `scratch`: the trial is done if no artifact must be measured."""
        if self._artifacts:
            call_on_main(partial(self.folder.save_tuned, key, tuned, scratch))
        else:
            self._add_trial(key, tuned)

    def add_too_few_bytes(self, key: TrialKey, error: TooFewBytes) -> None:
        """Record that no plan is as small as a point requires."""
        self._too_few_bytes[key] = str(error)
        self.folder.save_too_few_bytes(key, error)

    def settings_at(self, point: OperatingPoint) -> Settings:
        """Return the settings of a trial at a point."""
        return point.apply(self._settings, self.dense_bytes if point.kind == "bytes" else 0)

    def _read_tuned(self, key: TrialKey) -> TunedModel | None:
        return call_on_main(partial(self.folder.read_tuned, key))

    def _add_trial(self, key: TrialKey, tuned: TunedModel) -> None:
        self._trials[key] = call_on_main(partial(self._measure, key, tuned))
        call_on_main(partial(self.folder.save, self._trials[key]))

    def _measure(self, key: TrialKey, tuned: TunedModel) -> Trial:
        artifact, change = None, tuned.change
        if self._artifacts:
            assert tuned.file is not None
            settings = self.settings_at(key[0])
            artifact, quantized_change = measure_artifact(
                self._program, self._dense_file.path, tuned.file, settings.latency, settings.quantization, self._task,
                seed=settings.seed, runtime=settings.export.runtime,
            )  # fmt: skip
            change = change if quantized_change is None else quantized_change
        assert change is not None
        return Trial(*key, change, artifact)
