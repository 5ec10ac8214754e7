"""Measure size, quality and speed of the exported file compared with the dense model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from recprune_export.errors import SlowerThanPyTorch
from recprune_export.evidence import Verdict, judge_at_most
from recprune_export.finetuning.id_frequency import count_id_frequencies
from recprune_export.finetuning.task import (
    AnswerFunction,
    Task,
)
from recprune_export.metrics._paired_change import MetricChange
from recprune_export.metrics.quality_comparison import QualityBreakdown
from recprune_export.number_formats import format_ratio
from recprune_export.onnx._translate import translate
from recprune_export.onnx.cost.estimate import count_operations
from recprune_export.onnx.cost.weightless_model import strip_weights
from recprune_export.onnx.counts import Counts, Reduction, count, reduction
from recprune_export.onnx.export import OnnxFile
from recprune_export.onnx.optimizer.passes.name_batch import name_batch
from recprune_export.onnx.runtime.session import SessionOptions
from recprune_export.pipeline._prune import PrunedModel
from recprune_export.pipeline.export_models import ExportedModels, make_predictor
from recprune_export.pipeline.quality_warning import QualityVerdict, judge_quality
from recprune_export.program.program import Program
from recprune_export.program.signature import Signature
from recprune_export.progress import show_status
from recprune_export.pruning.fields.field_selection import remove_fields
from recprune_export.runtime_releases import DEFAULT_OPSET
from recprune_export.settings import LatencySettings
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
from recprune_export.validation.latency.request_cycle import RequestCycles, sample_cycles
from recprune_export.validation.latency.speedup import choose_batch
from recprune_export.validation.rare_ids import SharedRowReport, compare_shared_rows


@dataclass(frozen=True)
class Measurements:
    """Sizes, quality on test rows, and speed of the exported file, each compared with the dense model."""

    counts: Mapping[str, Counts]
    metrics: Mapping[str, Mapping[str, float]]
    change: MetricChange | None
    changes: Mapping[str, MetricChange]
    breakdown: QualityBreakdown | None
    rows: SharedRowReport | None
    latency: LatencyReport
    footprints: FootprintReport | None

    @property
    def quality(self) -> QualityVerdict | None:
        """The verdict on the loss of quality; None without labeled rows."""
        return None if self.change is None else judge_quality(self.change)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences on a large loss of quality, a busy machine, and inconclusive results."""
        quality = None if self.quality is None else self.quality.warning
        loss = () if quality is None else (quality,)
        return (*loss, *self.latency.warnings, *judge_against_pytorch(self.latency)[1])

    @property
    def reduction(self) -> Reduction:
        """The reduction of parameters and bytes in the pruned file."""
        return reduction(self.counts["dense"], self.counts["pruned"])


def evaluate_exports(
    program: Program,
    pruned: PrunedModel,
    exported: ExportedModels,
    latency: LatencySettings,
    task: Task,
    *,
    seed: int = 0,
) -> Measurements:
    """Count, test and time both files; with `latency.quick` at one batch size, without cold caches and cold starts.

    Raises `SlowerThanPyTorch` if the pruned model is slower than PyTorch.
    """
    counts = {"dense": count_dense(program, exported.dense), "pruned": count(exported.pruned.path)}
    answers = {"dense": make_predictor(exported.dense), "pruned": make_predictor(exported.row_wise)}
    with show_status("Measuring quality on test rows"):
        frequencies = count_id_frequencies(task, program.signature)
        quality = task.compare_on_test(answers["dense"], answers["pruned"], frequencies)
        rows = report_shared_rows(program, pruned, exported.pruned, task, answers)
    requests = sample_cycles(exported.pruned.signature, choose_measured_batches(latency), seed=0)
    report = validate_latency(program, pruned.program, exported, requests, latency, seed=seed)
    footprints = None if latency.quick else measure_cold_starts(exported, program.signature, latency)
    return Measurements(
        counts, quality.metrics, quality.change, quality.changes, quality.breakdown, rows, report, footprints
    )


def count_dense(program: Program, file: OnnxFile) -> Counts:
    """Count the file of the dense `program`.

    A user's ONNX file may compute sizes at run time, after which ONNX infers no shapes: its operations are then counted in the program.
    """
    counts = count(file.path)
    if file.guarded:
        return counts
    model = translate(program, DEFAULT_OPSET)
    name_batch(model)
    return replace(counts, operations=count_operations(strip_weights(model).model))


def choose_measured_batches(latency: LatencySettings) -> tuple[int, ...]:
    """Return the batch sizes at which latency is measured: with `latency.quick` only that of the headline.

    >>> choose_measured_batches(LatencySettings((1, 256, 1024), quick=True))
    (256,)
    """
    sizes = latency.latency_batch_sizes
    return (int(choose_batch(map(str, sizes))),) if latency.quick else sizes


def validate_latency(
    dense: Program,
    pruned: Program,
    exported: ExportedModels,
    requests: RequestCycles,
    latency: LatencySettings,
    *,
    seed: int,
) -> LatencyReport:
    """Time both models in PyTorch and in ONNX Runtime, interleaved; a rough ratio to PyTorch suffices.

    Raises `SlowerThanPyTorch` if pruned ONNX is significantly slower than pruned PyTorch.
    """
    threads = latency.threads
    with torch_threads(threads):
        backends = [
            make_torch_backend(DENSE_TORCH, dense),
            make_torch_backend(PRUNED_TORCH, pruned),
            make_onnxruntime_backend(DENSE_ONNX, exported.dense.path, threads),
            make_onnxruntime_backend(PRUNED_ONNX, exported.pruned.path, threads),
        ]
        report = measure_latency(
            backends, requests, threads=threads, seed=seed, rough=(DENSE_TORCH, PRUNED_TORCH), cold=not latency.quick
        )
    slower, _ = judge_against_pytorch(report)
    if slower:
        ratios = {batch: report.ratio(batch, PRUNED_ONNX, PRUNED_TORCH).estimate for batch in report.samples}
        batch = max(ratios, key=ratios.__getitem__)
        onnx, torch = (report.typical_time(batch, name).estimate for name in (PRUNED_ONNX, PRUNED_TORCH))
        excess = 1e3 * (onnx - torch) / batch
        raise SlowerThanPyTorch(f"The ONNX model is not as fast as PyTorch. {slower[0]}", ratios[batch], excess)
    return report


def judge_against_pytorch(report: LatencyReport) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return sentences on batch sizes at which pruned ONNX is, or may be, slower than pruned PyTorch."""
    sentences: dict[Verdict, list[str]] = {Verdict.FAILS: [], Verdict.UNDECIDED: []}
    for batch in report.samples:
        ratio = report.ratio(batch, PRUNED_ONNX, PRUNED_TORCH)
        verdict, figure = judge_at_most(ratio, 1.0), f"{format_ratio(ratio)} the time of {PRUNED_TORCH}"
        if verdict is Verdict.FAILS:
            onnx, torch = (report.typical_time(batch, name).estimate for name in (PRUNED_ONNX, PRUNED_TORCH))
            sentences[verdict].append(
                f"At batch {batch}, {PRUNED_ONNX} takes {onnx:.3g} ms and {PRUNED_TORCH} {torch:.3g} ms: {figure}."
            )
        elif verdict is Verdict.UNDECIDED:
            sentences[verdict].append(
                f"At batch {batch} it is inconclusive whether {PRUNED_ONNX} is as fast as {PRUNED_TORCH}: it takes {figure}. "
                "Measure again on an idle machine."
            )
    return tuple(sentences[Verdict.FAILS]), tuple(sentences[Verdict.UNDECIDED])


def measure_cold_starts(exported: ExportedModels, signature: Signature, latency: LatencySettings) -> FootprintReport:
    """Measure load time, first request and memory of both ONNX files in fresh processes."""
    options = SessionOptions(threads=latency.threads)
    models = {DENSE_ONNX: (exported.dense.path, options), PRUNED_ONNX: (exported.pruned.path, options)}
    return measure_footprints(models, signature, max(latency.latency_batch_sizes))


def report_shared_rows(
    program: Program, pruned: PrunedModel, file: OnnxFile, task: Task, answers: Mapping[str, AnswerFunction]
) -> SharedRowReport | None:
    """Return the effect of shared rows on requests with and without a rare id; None if no rows were removed."""
    first = pruned.stages[0]
    if first.shared_row_proof is None:
        return None
    program = remove_fields(program, first.plan.fields).program
    return compare_shared_rows(program, first.plan.rows, first.shared_row_proof, file, task, answers)
