"""`Tuner`: prunes and tunes a model at one operating point after another, without measuring times."""

from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

from recprune_export.bundle.manifest.manifest import MODEL
from recprune_export.distributed.main_process import call_on_main
from recprune_export.finetuning.rounded_weights import with_rounded_weights
from recprune_export.finetuning.task import Task, run_program
from recprune_export.metrics._paired_change import MetricChange
from recprune_export.onnx.export import OnnxFile, ServingConfig, export_onnx
from recprune_export.pipeline._fingerprint import fingerprint
from recprune_export.pipeline._prune import SearchPrefix, prune, run_search_prefix
from recprune_export.pipeline.export_models import make_serving_config
from recprune_export.program.program import Program
from recprune_export.progress import show_status
from recprune_export.search.operating_point import OperatingPoint
from recprune_export.settings import Settings
from recprune_export.stored_bits import StoredBits


@dataclass(frozen=True)
class TunedModel:
    """A model that was pruned and tuned, but not yet timed.

    `change` is that of the deciding metric from the dense program; None if the quantized file decides. `file` is the model in
    fp32, for trials that measure artifacts.
    """

    change: MetricChange | None
    file: OnnxFile | None = None


@dataclass(frozen=True)
class _Compressed:
    """A program with the bits of its weights, if they were planned."""

    program: Program
    bits: StoredBits | None = None

    @property
    def served(self) -> Program:
        """The program that answers with rounded weights."""
        return self.program if self.bits is None else with_rounded_weights(self.program, self.bits)


class Tuner:
    """Prunes and tunes `program` on the rows of `task`, and does the work that points of one seed share only once.

    The results follow from the model, the rows and the settings: they are the same in every process that has as many threads.
    With `artifacts` each model is also written as an ONNX file.
    """

    def __init__(self, program: Program, settings: Settings, task: Task, *, artifacts: bool = False) -> None:
        self._program, self._settings, self._task, self._artifacts = program, settings, task, artifacts
        self._prefixes: dict[int, SearchPrefix] = {}  # by the seed

    @cached_property
    def key(self) -> str:
        """The digest of everything that determines trials, except their point and seed."""
        latency, quantization = self._settings.latency, self._settings.quantization
        extra = [asdict(latency), asdict(quantization)] if self._artifacts else []
        pruning = replace(self._settings.pruning.at_sparsity(0.0), max_bytes=None, max_microseconds=None)
        finetuning, task = self._settings.finetuning, self._task
        return call_on_main(lambda: fingerprint(self._program, pruning, finetuning, task, extra=extra))

    def search_prefix(self, seed: int) -> SearchPrefix | None:
        """Return the common work of the points of a seed; None if no point was tuned in this process."""
        return self._prefixes.get(seed)

    def tune(self, point: OperatingPoint, settings: Settings, seed: int, folder: Path) -> TunedModel:
        """Prune and tune by `settings`, which are those at `point`; an ONNX file is written into `folder`.

        Raises `TooFewBytes` if no plan is as small as the point requires.
        """
        compressed = self._compress(point, settings, seed)
        return call_on_main(partial(self._finish, compressed, settings, folder))

    def _finish(self, compressed: _Compressed, settings: Settings, folder: Path) -> TunedModel:
        file = None
        if self._artifacts:
            serving = ServingConfig(settings.latency.latency_batch_sizes, runtime=settings.export.runtime)
            with show_status("Exporting to ONNX"):
                file = export_onnx(compressed.program, folder / MODEL, serving=serving, bits=compressed.bits)
            if compressed.bits is not None or settings.quantization.quantize != "none":
                return TunedModel(None, file)
        served = compressed.served
        return TunedModel(self._task.change(partial(run_program, self._program), partial(run_program, served)), file)

    def _compress(self, point: OperatingPoint, settings: Settings, seed: int) -> _Compressed:
        """Return the program of a point, pruned and tuned; the dense model if nothing is removed."""
        if point.kind == "dense int8":
            return _Compressed(self._program)
        self._prefixes[seed] = run_search_prefix(
            self._program, settings.pruning, settings.finetuning, self._task,
            seed=seed, prefix=self._prefixes.get(seed), serving=make_serving_config(settings),
        )  # fmt: skip
        pruned = prune(
            self._program, settings.pruning, settings.finetuning, self._task,
            seed=seed, search_prefix=self._prefixes[seed], serving=make_serving_config(settings),
        )  # fmt: skip
        storage = pruned.plan.storage
        return _Compressed(pruned.program, None if storage is None else storage.bits)
