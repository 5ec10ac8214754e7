"""`measure_artifact`: size and speed of the ONNX file of a pruned program, as in serving."""

import tempfile
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import partial
from math import exp, log
from pathlib import Path
from typing import Annotated, Any

from recprune_export.codec import DictMixin, JsonForm, decode
from recprune_export.evidence import Estimate
from recprune_export.finetuning.task import Task, run_program
from recprune_export.metrics._paired_change import MetricChange
from recprune_export.onnx.counts import count
from recprune_export.onnx.export import OnnxFile
from recprune_export.pipeline._quantize_export import quantize_export
from recprune_export.pipeline.evaluate_export import choose_measured_batches
from recprune_export.pipeline.export_models import make_predictor
from recprune_export.program.program import Program
from recprune_export.runtime_releases import ANY_RUNTIME, RuntimeTarget
from recprune_export.settings import LatencySettings, QuantizationSettings
from recprune_export.validation.latency.backends import DENSE_ONNX, PRUNED_ONNX, make_onnxruntime_backend
from recprune_export.validation.latency.closed_loop import measure_latency
from recprune_export.validation.latency.latency_constants import SECONDS
from recprune_export.validation.latency.request_cycle import sample_cycles


def _encode_speedup(speedup: Mapping[int, Estimate]) -> dict[str, list[float]]:
    return {str(batch): list(astuple(estimate)) for batch, estimate in speedup.items()}


def _decode_speedup(values: Any) -> dict[int, Estimate]:
    return {batch: Estimate(*ends) for batch, ends in decode(dict[int, tuple[float, float, float]], values).items()}


@dataclass(frozen=True)
class ArtifactMeasurements(DictMixin):
    """Counts of the ONNX file, and by batch size its median latency in milliseconds and its speed-up over the dense model."""

    parameters: int
    nonzero: int
    bytes: int
    milliseconds: Mapping[int, float]
    speedup: Annotated[Mapping[int, Estimate], JsonForm(_encode_speedup, _decode_speedup)]

    @property
    def overall(self) -> Estimate:
        """The geometric mean of the speed-ups over batch sizes; the interval is that of the logs, each at its end."""
        return Estimate(*(self._mean(end) for end in ("estimate", "low", "high")))

    def _mean(self, end: str) -> float:
        return exp(sum(log(getattr(e, end)) for e in self.speedup.values()) / len(self.speedup))


def measure_artifact(
    dense: Program,
    dense_file: Path,
    pruned_file: OnnxFile,
    latency: LatencySettings,
    quantization: QuantizationSettings,
    task: Task,
    *,
    seed: int = 0,
    runtime: RuntimeTarget = ANY_RUNTIME,
) -> tuple[ArtifactMeasurements, MetricChange | None]:
    """Quantize the file of a pruned program if `quantization` or its bits require it, and time it interleaved with `dense_file`.

    The second result is the change of the metric of the validation rows from `dense` to the quantized file, or None.
    """
    batches, threads = latency.latency_batch_sizes, latency.threads
    with tempfile.TemporaryDirectory() as scratch:
        quantized = quantize_export(
            pruned_file, quantization, batches, task, Path(scratch) / "quantized",
            threads=threads, seed=seed, runtime=runtime,
        )  # fmt: skip
        after = pruned_file if quantized is None else quantized.file
        change = None if quantized is None else task.change(partial(run_program, dense), make_predictor(after))
        backends = [
            make_onnxruntime_backend(DENSE_ONNX, dense_file, threads),
            make_onnxruntime_backend(PRUNED_ONNX, after.path, threads),
        ]
        measured = choose_measured_batches(latency)
        drawn = sample_cycles(after.signature, measured, seed=0)  # those of the main job and of `verify --latency`
        report = measure_latency(backends, drawn, threads=threads, seconds=SECONDS, seed=seed, cold=False)
        counts = count(after.path).total
        artifact = ArtifactMeasurements(
            counts.parameters,
            counts.nonzero,
            after.bytes,
            {batch: report.percentiles(batch, PRUNED_ONNX).p50 for batch in measured},
            {batch: report.ratio(batch, DENSE_ONNX, PRUNED_ONNX) for batch in measured},
        )
        return artifact, change
