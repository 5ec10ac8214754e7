"""How small, how good and how fast what is served is, measured beside the dense model."""

from collections.abc import Mapping
from dataclasses import dataclass

from recprune_export.errors import ValidationFailed
from recprune_export.finetuning.task import (
    Answers,
    Task,
)
from recprune_export.onnx.counts import Counts, Reduction, count, reduction
from recprune_export.onnx.export import OnnxFile
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.pipeline.export import Served, latency_requests, session_of
from recprune_export.pipeline.prune import Pruned
from recprune_export.program.program import Program
from recprune_export.program.signature import Signature
from recprune_export.progress import doing
from recprune_export.pruning.fields.field_selection import remove_fields
from recprune_export.settings import Settings
from recprune_export.training.paired_change import Change
from recprune_export.validation.latency.backends import (
    DENSE_ONNX,
    DENSE_TORCH,
    PRUNED_ONNX,
    PRUNED_TORCH,
    in_onnxruntime,
    in_torch,
    torch_threads,
)
from recprune_export.validation.latency.closed_loop import LatencyReport, measure
from recprune_export.validation.latency.footprint import FootprintReport, measure_footprints
from recprune_export.validation.rare_ids import RowReport, report_rows


@dataclass(frozen=True)
class Measured:
    """Sizes, quality on test rows, and speed of what is served, each beside the dense model."""

    counts: Mapping[str, Counts]
    metrics: Mapping[str, Mapping[str, float]]
    change: Change | None
    rows: RowReport | None
    latency: LatencyReport
    footprints: FootprintReport

    @property
    def gone(self) -> Reduction:
        """What the pruned file has less."""
        return reduction(self.counts["dense"], self.counts["pruned"])


def measure_served(program: Program, pruned: Pruned, served: Served, settings: Settings, task: Task) -> Measured:
    """Count, test and time both files. Raises `ValidationFailed` where the pruned one is slower than PyTorch."""
    counts = {"dense": count(served.dense.path), "pruned": count(served.pruned.path)}
    answers = {"dense": session_of(served.dense), "pruned": session_of(served.each_row)}
    with doing("Measuring quality on test rows"):
        metrics = {name: task.test(answer) for name, answer in answers.items()}
        change = task.test_change(answers["dense"], answers["pruned"])
        rows = report_shared_rows(program, pruned, served.pruned, task, answers)
    latency = validate_latency(program, pruned.program, served.dense, served.pruned, settings, task)
    footprints = cold_starts(served.dense, served.pruned, program.signature, settings)
    return Measured(counts, metrics, change, rows, latency, footprints)


def validate_latency(
    dense: Program, pruned: Program, dense_file: OnnxFile, pruned_file: OnnxFile, settings: Settings, task: Task
) -> LatencyReport:
    """Let the four contestants take turns.

    Raises `ValidationFailed` where pruned ONNX is slower than pruned PyTorch beyond doubt.
    """
    requests, threads = latency_requests(settings, task, pruned_file.signature), settings.threads
    with torch_threads(threads):
        contestants = [
            in_torch(DENSE_TORCH, dense),
            in_torch(PRUNED_TORCH, pruned),
            in_onnxruntime(DENSE_ONNX, dense_file.path, threads),
            in_onnxruntime(PRUNED_ONNX, pruned_file.path, threads),
        ]
        report = measure(contestants, requests, threads=threads, seed=settings.seed)
    slower = report.slower(PRUNED_ONNX, PRUNED_TORCH)
    if slower:
        raise ValidationFailed(f"The ONNX model is not as fast as PyTorch, so nothing was written. {slower[0]}")
    return report


def cold_starts(
    dense_file: OnnxFile, pruned_file: OnnxFile, signature: Signature, settings: Settings
) -> FootprintReport:
    """Measure load time, first request and memory of both ONNX files in fresh processes."""
    options = SessionOptions(threads=settings.threads)
    models = {DENSE_ONNX: (dense_file.path, options), PRUNED_ONNX: (pruned_file.path, options)}
    return measure_footprints(models, signature, max(settings.batches))


def report_shared_rows(
    program: Program, pruned: Pruned, file: OnnxFile, task: Task, answers: Mapping[str, Answers]
) -> RowReport | None:
    """Return what shared rows do to requests with and without a rare id; None where no rows went."""
    first = pruned.stages[0]
    if first.shared is None:
        return None
    program = remove_fields(program, first.plan.fields).program
    return report_rows(program, first.plan.rows, first.shared, file, task, answers)
