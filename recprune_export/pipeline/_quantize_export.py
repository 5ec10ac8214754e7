"""`quantize_export`: quantize the exported file, calibrated, timed and judged on rows of the task."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import exp, inf
from pathlib import Path
from typing import Any

import numpy as np

from recprune_export.evidence import Estimate
from recprune_export.finetuning.task import SampledRequests, Task
from recprune_export.onnx.export import OnnxFile
from recprune_export.onnx.runtime.session import make_session, run
from recprune_export.pipeline.latency_requests import make_latency_requests
from recprune_export.program.requests.jagged_inputs import to_file_arrays
from recprune_export.program.signature import Signature
from recprune_export.quantization._quantize import QuantizedFile, quantize
from recprune_export.quantization.observers import GraphFunction
from recprune_export.quantization.quality_loss import Judge, QualityLoss, make_error_judge, make_metric_judge
from recprune_export.quantization.quantization_plan import QuantizationPlan
from recprune_export.runtime_releases import ANY_RUNTIME, RuntimeTarget
from recprune_export.settings import QuantizationSettings
from recprune_export.validation.edge_requests import (
    RequestArrays,
    count_candidates,
    expand_shared_inputs,
    make_edge_requests,
    squeeze_shared_inputs,
)
from recprune_export.validation.latency.backends import make_onnxruntime_backend
from recprune_export.validation.latency.repeated_sessions import log_ratio, measure_repeated_sessions
from recprune_export.validation.latency.request_cycle import RequestCycles
from recprune_export.validation.latency.statistics import interval_of_few
from recprune_export.validation.parity import Tolerances

CALIBRATION_ROWS, PIECE = 1024, 64
SESSION_REPEATS, SECONDS, FEWEST = 4, 0.15, 15


@dataclass(frozen=True)
class QuantizedExport:
    """A quantized file, how it was quantized, and its speed-up over fp32 by batch size."""

    file: OnnxFile
    quantized: QuantizedFile
    speedups: Mapping[int, Estimate]

    def tolerances(self, float_tolerances: Tolerances) -> Tolerances:
        """Return the tolerances of golden outputs: those of floats, and the effect of rounding to integers."""
        return replace(float_tolerances, absolute=float_tolerances.absolute + self.quantized.tolerance)

    def golden(self, request: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Answer the golden request with the quantized file, not with the program from which it was made."""
        return run(make_session(self.file.path, 1), request)

    def notes(self) -> tuple[str, ...]:
        """Return sentences on weights that were reverted to more bits, and on batch sizes at which the file is slower."""
        notes = []
        if self.quantized.relaxations:
            notes.append(f"Reverted to more bits to keep quality: {'; '.join(self.quantized.relaxations)}.")
        if self.quantized.loss.note is not None and not self.quantized.plan.is_empty:
            notes.append(self.quantized.loss.note)
        if self.quantized.plan.is_empty:
            notes.append("Nothing was quantized: no quantization was faster or smaller within the allowed loss.")
        elif any(spec.shared for spec in self.file.signature.inputs):
            notes.append("With shared inputs, the quality on test rows is measured on the file before quantization.")
        notes += [
            f"At batch {batch} the quantized file takes {1 / ratio.estimate:.2f} times as long as in fp32."
            for batch, ratio in self.speedups.items()
            if ratio.high < 1.0
        ]
        return tuple(notes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        speedups = {str(batch): asdict(ratio) for batch, ratio in self.speedups.items()}
        return {**self.quantized.to_dict(), "speedups": speedups}


def quantize_export(
    file: OnnxFile,
    quantization: QuantizationSettings,
    batches: Sequence[int],
    task: Task,
    folder: Path,
    *,
    threads: int = 1,
    seed: int = 0,
    runtime: RuntimeTarget = ANY_RUNTIME,
    chosen: QuantizationPlan | None = None,
) -> QuantizedExport | None:
    """Quantize `file` into `folder`, in its planned bits where it has any; None if it has none and `quantization` is "none".

    Ranges come from training rows, the gate is the metric of validation rows, and forms are timed on test rows in requests of `batches`
    rows. Only forms that `runtime` loads are used, and those in `chosen` are not timed again.

    Raises `ExportError` if the file cannot be written.
    """
    mode = quantization.quantize if file.bits is None else file.bits
    if mode == "none":
        return None
    requests = make_latency_requests(batches, task, file.signature)
    squeezed = {
        batch: [to_file_arrays(file.signature, squeeze_shared_inputs(request, file.signature)) for request in cycle]
        for batch, cycle in requests.items()
    }
    judge = _make_judge(file.signature, task, quantization.max_quantize_drop)
    target = folder / file.path.name
    calibration = make_calibration_requests(file.signature, task, seed)
    quantized = quantize(file.path, target, mode, calibration, squeezed, judge, runtime=runtime, chosen=chosen)
    served = replace(file, path=quantized.path, data=quantized.data if quantized.path == target else file.data)
    speedups = {} if quantized.plan.is_empty else _measure_speedups(file, served, requests, threads, seed)
    return QuantizedExport(served, quantized, speedups)


def make_calibration_requests(signature: Signature, task: Task, seed: int = 0) -> list[RequestArrays]:
    """Return training rows as inputs of the file, in pieces, because a piece has one row of each shared input."""
    pieces: list[RequestArrays] = []
    for request, _ in task.training_batches(seed):
        arrays = {name: tensor.numpy() for name, tensor in request.items()}
        for start in range(0, count_candidates(arrays), PIECE):
            piece = {name: values[start : start + PIECE] for name, values in arrays.items()}
            pieces.append(to_file_arrays(signature, squeeze_shared_inputs(piece, signature)))
            if len(pieces) * PIECE >= CALIBRATION_ROWS:
                return pieces
    return pieces


def _make_judge(signature: Signature, task: Task, limit: float) -> Judge:
    """Judge by the metric if rows can be scored one by one, otherwise by the error; NaN and infinity are kept in both cases."""
    edges = list(make_edge_requests(signature).values())
    if isinstance(task, SampledRequests) or any(spec.shared for spec in signature.inputs):
        sampled = squeeze_shared_inputs(task.requests(CALIBRATION_ROWS, seed=3), signature)
        by_rows = make_error_judge(
            [
                to_file_arrays(signature, squeeze_shared_inputs(piece, signature))
                for piece in _split(expand_shared_inputs(sampled, signature))
            ],
            limit,
        )
    else:
        metric_judge = make_metric_judge(task.change, limit)

        def by_rows(before: GraphFunction, after: GraphFunction) -> QualityLoss:
            return metric_judge(_on_rows(before, signature), _on_rows(after, signature))

    def judge(before: GraphFunction, after: GraphFunction) -> QualityLoss:
        loss = by_rows(before, after)
        for request in edges:
            arrays = to_file_arrays(signature, squeeze_shared_inputs(request, signature))
            one, other = before(arrays), after(arrays)
            if any(not np.array_equal(np.isfinite(one[name]), np.isfinite(other[name])) for name in one):
                return replace(loss, lost=inf, interval=(inf, inf))
        return loss

    return judge


def _on_rows(function: GraphFunction, signature: Signature) -> GraphFunction:
    """Return a function that takes arrays of rows instead of those of the file."""
    return lambda request: function(to_file_arrays(signature, request))


def _split(request: RequestArrays) -> list[RequestArrays]:
    starts = range(0, count_candidates(request), PIECE)
    return [{name: values[start : start + PIECE] for name, values in request.items()} for start in starts]


def _measure_speedups(
    before: OnnxFile, after: OnnxFile, requests: RequestCycles, threads: int, seed: int
) -> dict[int, Estimate]:
    makers = {
        "fp32": lambda: make_onnxruntime_backend("fp32", before.path, threads),
        "quantized": lambda: make_onnxruntime_backend("quantized", after.path, threads),
    }
    rng = np.random.default_rng(seed)
    sessions = measure_repeated_sessions(
        makers, requests, count=SESSION_REPEATS, seconds=SECONDS, rng=rng, min_rounds=FEWEST
    )
    gains = {batch: [log_ratio(session[batch], "fp32", "quantized") for session in sessions] for batch in requests}
    return {batch: interval_of_few(logs, confidence=0.95).apply(exp) for batch, logs in gains.items()}
