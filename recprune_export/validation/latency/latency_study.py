"""Latency study of ONNX files: closed and open loop, by thread count, cold start and memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from recprune_export.codec import JsonForm, ToDictMixin, json_name
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.program.signature import Signature
from recprune_export.validation.latency.backends import make_onnxruntime_backend
from recprune_export.validation.latency.closed_loop import LatencyReport, measure_latency
from recprune_export.validation.latency.footprint import FootprintReport, measure_footprints
from recprune_export.validation.latency.open_loop import OpenLoopReport, measure_open_loop
from recprune_export.validation.latency.request_cycle import sample_cycles

Models = Mapping[str, tuple[Path, SessionOptions]]


def _encode_footprints(report: FootprintReport) -> dict[str, Any]:
    return {"batch_size": report.batch, "models": {name: _encode_footprint(report, name) for name in report.runs}}


def _encode_footprint(report: FootprintReport, name: str) -> dict[str, float]:
    typical = report.typical(name)
    return {
        "processes": len(report.runs[name]),
        "load_milliseconds": typical.load,
        "first_request_milliseconds": typical.first_request,
        "memory_bytes": typical.memory,
        "peak_memory_bytes": typical.peak,
    }


@dataclass(frozen=True)
class LatencyStudy(ToDictMixin):
    """Reports by thread count, open loop only with an arrival rate; and the footprints of cold starts."""

    closed: tuple[LatencyReport, ...] = field(metadata=json_name("closed_loop"))
    open: tuple[OpenLoopReport, ...] = field(metadata=json_name("open_loop"))
    footprints: Annotated[FootprintReport, JsonForm(_encode_footprints)]


def study_latency(
    models: Models,
    signature: Signature,
    *,
    batches: Sequence[int],
    threads: Sequence[int],
    qps: float | None = None,
    seconds: float = 4.0,
    seed: int = 0,
) -> LatencyStudy:
    """Measure each model (a file and its session options) on requests drawn from `signature`.

    Each batch size of each loop at each thread count takes `seconds`; the thread count of the options is replaced.
    """
    requests = sample_cycles(signature, batches, seed)
    closed, opened = [], []
    for count in threads:
        backends = [make_onnxruntime_backend(name, path, count, options) for name, (path, options) in models.items()]
        closed.append(measure_latency(backends, requests, threads=count, seconds=seconds, seed=seed))
        if qps is not None:
            opened.append(measure_open_loop(backends, requests, qps=qps, threads=count, seconds=seconds, seed=seed))
    return LatencyStudy(tuple(closed), tuple(opened), measure_footprints(models, signature, max(batches)))
