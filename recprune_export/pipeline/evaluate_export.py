"""How small, how good and how fast what is served is, measured beside the dense model."""

from collections.abc import Mapping
from dataclasses import dataclass

from recprune_export.errors import ValidationFailed
from recprune_export.finetuning.task import (
    Predictor,
    Task,
)
from recprune_export.onnx.counts import Counts, Reduction, count, reduction
from recprune_export.onnx.export import OnnxFile
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.pipeline.export import ExportedModels, make_latency_requests, make_predictor
from recprune_export.pipeline.prune import PrunedModel
from recprune_export.program.program import Program
from recprune_export.program.signature import Signature
from recprune_export.progress import show_status
from recprune_export.pruning.fields.field_selection import remove_fields
from recprune_export.settings import Settings
from recprune_export.training.paired_change import MetricChange
from recprune_export.validation.latency.backends import (
    DENSE_ONNX,
    DENSE_TORCH,
    PRUNED_ONNX,
    PRUNED_TORCH,
    make_onnxruntime_backend,
    make_torch_backend,
    torch_threads,
)
from recprune_export.validation.latency.closed_loop import LatencyReport, measure_latency
from recprune_export.validation.latency.footprint import FootprintReport, measure_footprints
from recprune_export.validation.rare_ids import SharedRowReport, compare_shared_rows


@dataclass(frozen=True)
class Measurements:
    """Sizes, quality on test rows, and speed of what is served, each beside the dense model."""

    counts: Mapping[str, Counts]
    metrics: Mapping[str, Mapping[str, float]]
    change: MetricChange | None
    rows: SharedRowReport | None
    latency: LatencyReport
    footprints: FootprintReport

    @property
    def reduction(self) -> Reduction:
        """What the pruned file has less."""
        return reduction(self.counts["dense"], self.counts["pruned"])


def evaluate_exports(
    program: Program, pruned: PrunedModel, exported: ExportedModels, settings: Settings, task: Task
) -> Measurements:
    """Count, test and time both files. Raises `ValidationFailed` where the pruned one is slower than PyTorch."""
    counts = {"dense": count(exported.dense.path), "pruned": count(exported.pruned.path)}
    answers = {"dense": make_predictor(exported.dense), "pruned": make_predictor(exported.row_wise)}
    with show_status("Measuring quality on test rows"):
        metrics = {name: task.test(answer) for name, answer in answers.items()}
        change = task.compare_on_test(answers["dense"], answers["pruned"])
        rows = report_shared_rows(program, pruned, exported.pruned, task, answers)
    latency = validate_latency(program, pruned.program, exported.dense, exported.pruned, settings, task)
    footprints = measure_cold_starts(exported.dense, exported.pruned, program.signature, settings)
    return Measurements(counts, metrics, change, rows, latency, footprints)


def validate_latency(
    dense: Program, pruned: Program, dense_file: OnnxFile, pruned_file: OnnxFile, settings: Settings, task: Task
) -> LatencyReport:
    """Let the four contestants take turns.

    Raises `ValidationFailed` where pruned ONNX is slower than pruned PyTorch beyond doubt.
    """
    requests, threads = make_latency_requests(settings, task, pruned_file.signature), settings.threads
    with torch_threads(threads):
        contestants = [
            make_torch_backend(DENSE_TORCH, dense),
            make_torch_backend(PRUNED_TORCH, pruned),
            make_onnxruntime_backend(DENSE_ONNX, dense_file.path, threads),
            make_onnxruntime_backend(PRUNED_ONNX, pruned_file.path, threads),
        ]
        report = measure_latency(contestants, requests, threads=threads, seed=settings.seed)
    slower = report.slower(PRUNED_ONNX, PRUNED_TORCH)
    if slower:
        raise ValidationFailed(f"The ONNX model is not as fast as PyTorch, so nothing was written. {slower[0]}")
    return report


def measure_cold_starts(
    dense_file: OnnxFile, pruned_file: OnnxFile, signature: Signature, settings: Settings
) -> FootprintReport:
    """Measure load time, first request and memory of both ONNX files in fresh processes."""
    options = SessionOptions(threads=settings.threads)
    models = {DENSE_ONNX: (dense_file.path, options), PRUNED_ONNX: (pruned_file.path, options)}
    return measure_footprints(models, signature, max(settings.batches))


def report_shared_rows(
    program: Program, pruned: PrunedModel, file: OnnxFile, task: Task, answers: Mapping[str, Predictor]
) -> SharedRowReport | None:
    """Return what shared rows do to requests with and without a rare id; None where no rows went."""
    first = pruned.stages[0]
    if first.shared_row_proof is None:
        return None
    program = remove_fields(program, first.plan.fields).program
    return compare_shared_rows(program, first.plan.rows, first.shared_row_proof, file, task, answers)
