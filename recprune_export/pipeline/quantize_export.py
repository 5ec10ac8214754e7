"""`quantize_export`: the exported file quantised, with rows of the task to calibrate, to time and to judge it on."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recprune_export.finetuning.task import SampledRequests, Task
from recprune_export.onnx.export import OnnxFile
from recprune_export.onnx.runtime.session import make_session, run
from recprune_export.program.signature import Signature
from recprune_export.quantization.observers import GraphFunction
from recprune_export.quantization.quality_loss import Judge, QualityLoss, make_error_judge, make_metric_judge
from recprune_export.quantization.quantize import QuantizedFile, quantize
from recprune_export.settings import Settings
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
from recprune_export.validation.latency.statistics import Estimate, interval_of_few
from recprune_export.validation.parity import Tolerances

CALIBRATION_ROWS, PIECE = 1024, 64
SEATINGS, SECONDS, FEWEST = 4, 0.15, 15


@dataclass(frozen=True)
class QuantizedExport:
    """The file that is served, how it was quantised, and by batch size how many times faster it is than before."""

    file: OnnxFile
    quantized: QuantizedFile
    speedups: Mapping[int, Estimate]

    def tolerances(self, float_tolerances: Tolerances) -> Tolerances:
        """Return what golden outputs may differ by: that of floats, and what rounding to integers makes of it."""
        return replace(float_tolerances, absolute=float_tolerances.absolute + self.quantized.tolerance)

    def golden(self, request: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Answer the golden request: what is served answers for itself, not for the program that it was made of."""
        return run(make_session(self.file.path, 1), request)

    def notes(self) -> tuple[str, ...]:
        """Say in sentences what was taken back, and where it is slower."""
        found = []
        if self.quantized.relaxations:
            found.append(f"Quantised less, for quality: {'; '.join(self.quantized.relaxations)}.")
        if self.quantized.plan.is_empty:
            found.append("Nothing was quantised: nothing would be faster or smaller without losing too much.")
        elif any(spec.shared for spec in self.file.signature.inputs):
            found.append("With shared inputs the quality on test rows is that of the file before it was quantised.")
        found += [
            f"At batch {batch} the quantised file takes {1 / ratio.estimate:.2f} times as long as in fp32."
            for batch, ratio in self.speedups.items()
            if ratio.high < 1.0
        ]
        return tuple(found)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        speedups = {str(batch): asdict(ratio) for batch, ratio in self.speedups.items()}
        return {**self.quantized.to_dict(), "speedups": speedups}


def quantize_export(
    file: OnnxFile, task: Task, settings: Settings, requests: RequestCycles, folder: Path
) -> QuantizedExport | None:
    """Quantise `file` as `settings` say, into `folder`; None where it shall stay as it is.

    Ranges come from training rows, the gate is the metric of validation rows. `requests` are those that latency is measured
    on, by batch size. Raises `ExportError` where the file cannot be written.
    """
    if settings.quantize == "none":
        return None
    taken = {
        batch: [squeeze_shared_inputs(each, file.signature) for each in rotation]
        for batch, rotation in requests.items()
    }
    judge = _judge(file.signature, task, settings)
    target = folder / file.path.name
    found = quantize(
        file.path, target, settings.quantize, make_calibration_requests(file.signature, task, settings), taken, judge
    )
    served = replace(file, path=found.path, data=found.data if found.path == target else file.data)
    return QuantizedExport(served, found, {} if found.plan.is_empty else _speedups(file, served, requests, settings))


def make_calibration_requests(signature: Signature, task: Task, settings: Settings) -> list[RequestArrays]:
    """Return training rows as the file takes them, in pieces, for a piece has only one row of what is shared."""
    pieces: list[RequestArrays] = []
    for request, _ in task.training_batches(settings.seed):
        whole = {name: tensor.numpy() for name, tensor in request.items()}
        for start in range(0, count_candidates(whole), PIECE):
            piece = {name: values[start : start + PIECE] for name, values in whole.items()}
            pieces.append(squeeze_shared_inputs(piece, signature))
            if len(pieces) * PIECE >= CALIBRATION_ROWS:
                return pieces
    return pieces


def _judge(signature: Signature, task: Task, settings: Settings) -> Judge:
    """By the metric where there are rows that can be asked one by one; in any case NaN and infinity stay where they are."""
    limit, edges = settings.max_quantize_drop, list(make_edge_requests(signature).values())
    if isinstance(task, SampledRequests) or settings.shared_inputs:
        drawn = squeeze_shared_inputs(task.requests(CALIBRATION_ROWS, seed=3), signature)
        by_rows = make_error_judge(
            [squeeze_shared_inputs(piece, signature) for piece in _pieces(expand_shared_inputs(drawn, signature))],
            limit,
        )
    else:
        by_rows = make_metric_judge(task.change, limit)

    def judge(before: GraphFunction, after: GraphFunction) -> QualityLoss:
        loss = by_rows(before, after)
        for request in edges:
            one, other = (
                before(squeeze_shared_inputs(request, signature)),
                after(squeeze_shared_inputs(request, signature)),
            )
            if any(not np.array_equal(np.isfinite(one[name]), np.isfinite(other[name])) for name in one):
                return replace(loss, lost=float("inf"))
        return loss

    return judge


def _pieces(request: RequestArrays) -> list[RequestArrays]:
    starts = range(0, count_candidates(request), PIECE)
    return [{name: values[start : start + PIECE] for name, values in request.items()} for start in starts]


def _speedups(before: OnnxFile, after: OnnxFile, requests: RequestCycles, settings: Settings) -> dict[int, Estimate]:
    makers = {
        "fp32": lambda: make_onnxruntime_backend("fp32", before.path, settings.threads),
        "quantised": lambda: make_onnxruntime_backend("quantised", after.path, settings.threads),
    }
    rng = np.random.default_rng(settings.seed)
    seatings = measure_repeated_sessions(makers, requests, count=SEATINGS, seconds=SECONDS, rng=rng, min_rounds=FEWEST)
    found = {}
    for batch in requests:
        gains = interval_of_few(
            [log_ratio(seating[batch], "fp32", "quantised") for seating in seatings], confidence=0.95
        )
        found[batch] = Estimate(*np.exp([gains.estimate, gains.low, gains.high]).tolist())
    return found
