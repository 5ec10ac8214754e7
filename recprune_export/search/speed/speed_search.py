"""`find_point_for_speed`: find the point with the smallest removed part at which the artifact is certainly fast enough."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import exp, log
from pathlib import Path
from typing import NoReturn

from recprune_export.distributed.main_process import call_on_main
from recprune_export.errors import TooLittleTime, Undecided, ValidationFailed
from recprune_export.evidence import Estimate, Verdict, judge_at_least
from recprune_export.finetuning.task import Task
from recprune_export.onnx.export import OnnxFile, ServingConfig, export_onnx
from recprune_export.pipeline._prune import rotate_channels
from recprune_export.pipeline._quantize_export import quantize_export
from recprune_export.pipeline.export_models import make_serving_config
from recprune_export.pipeline.latency_requests import make_latency_requests
from recprune_export.pipeline.planning import make_byte_candidates, plan_fields, plan_pruning, remove_fields_and_rows
from recprune_export.program.program import Program
from recprune_export.progress import show_status
from recprune_export.pruning.allocation.storage_candidates import Candidate
from recprune_export.pruning.apply._apply_plan import apply_plan
from recprune_export.pruning.plan import FieldPlan
from recprune_export.search.bisection import MAX_SPARSITY, Bracket
from recprune_export.search.operating_point import OperatingPoint
from recprune_export.search.speed.monotone_fit import fit_monotone
from recprune_export.search.speed.speed_target import SpeedTarget
from recprune_export.settings import QuantizationSettings, Settings
from recprune_export.stored_bits import StoredBits

TIME_STEP = 0.8  # ratio of the predicted time of one trial to that of the one before
MIN_TIME_FRACTION = 0.02  # of the predicted time of the first plan: the smallest limit that a search tries


@dataclass(frozen=True)
class SpeedSearchResult:
    """The point that removes least and certainly reaches the target, its speed, and the number of files that were timed."""

    point: OperatingPoint
    speed: Estimate
    measured: int


def find_point_for_speed(
    program: Program,
    settings: Settings,
    target: SpeedTarget,
    task: Task,
    report: Callable[[str], None] = lambda text: None,
    *,
    max_bytes: float | None = None,
) -> SpeedSearchResult:
    """Search for the smallest sparsity that reaches `target`; with `max_bytes`, a fraction of the dense file, for the longest predicted
    time.

    Only the structure is searched, without fine-tuning, since weights do not affect the time: a sparsity without quantization, plans within
    `max_bytes` with the planned bits. The speed increases with the removed part, or with less predicted time, so the measurements at all
    points are fitted together (`fit_monotone`). A model with the shapes and bits of an earlier one is not timed again, and the
    dense model is exported once.

    Raises `ValidationFailed` if even the last point is certainly not fast enough, `Undecided` if that is inconclusive,
    `TooFewBytes` if no plan is within `max_bytes`.
    """
    fields = plan_fields(program, settings.pruning.prune_fields, task, settings.seed)
    candidates = None
    if max_bytes is not None:
        candidates = make_byte_candidates(
            program, settings.pruning, task, fields, seed=settings.seed, serving=make_serving_config(settings)
        )
    timed: dict[object, Estimate] = {}
    predicted: list[float] = []  # microseconds of the plans so far

    def make_point(removed: float) -> OperatingPoint:
        if max_bytes is None:
            return OperatingPoint("sparsity", removed)
        return OperatingPoint("bytes", max_bytes, (1.0 - removed) * predicted[0] if removed else 0.0)

    with tempfile.TemporaryDirectory() as scratch:
        dense = export_onnx(program, Path(scratch) / "dense.onnx", rewrites=())

        def measure(removed: float) -> Estimate:
            point = make_point(removed)
            at_point = point.apply(settings, 0 if max_bytes is None else dense.bytes)
            pruned = _prune_structure(program, at_point, task, fields, candidates, point.label)
            predicted.append(pruned.microseconds)
            if pruned.key not in timed:
                measured = partial(_export_and_measure, dense, pruned, target, task, settings)
                timed[pruned.key] = call_on_main(measured)
            return timed[pruned.key]

        if max_bytes is None:
            search = bisect_monotone(measure, target.threshold, settings.pruning.sparsity, MAX_SPARSITY)
        else:
            search = shrink_until_fast(measure, target.threshold, lambda: predicted[-1] / max(predicted[0], 1e-9))
        steps = []
        for step in search:
            steps.append(step)
            report(_format_trial(make_point, step[1], target))
    bracket, fitted = steps[-1]
    if bracket.upper == 1.0:
        _raise_out_of_reach(make_point(bracket.lower), fitted[bracket.lower], target)
    return SpeedSearchResult(make_point(bracket.upper), fitted[bracket.upper], len(timed))


Step = tuple[Bracket, dict[float, Estimate]]


def bisect_monotone(measure: Callable[[float], Estimate], target: float, first: float, most: float) -> Iterator[Step]:
    """Yield narrowing brackets of the smallest sparsity that certainly reaches `target`, with all fitted estimates so far.

    `upper` certainly reaches it, or is 1 if no such sparsity is known yet; `lower` does not certainly reach it. The newest trial is the
    last entry.
    """
    measured: dict[float, Estimate] = {}
    trial = first
    while True:
        measured[trial] = measure(trial)
        bracket, fitted = _fit_bracket(measured, target)
        yield bracket, {**{s: e for s, e in fitted.items() if s != trial}, trial: fitted[trial]}
        if bracket.lower >= most or (bracket.upper < 1.0 and bracket.narrow):
            return
        trial = most if bracket.upper >= 1.0 else bracket.middle


def shrink_until_fast(
    measure: Callable[[float], Estimate], target: float, read_fraction: Callable[[], float]
) -> Iterator[Step]:
    """Yield brackets as `bisect_monotone` does, of the removed fraction of the predicted time, which increases from 0.

    `read_fraction` returns the time of the last plan as a fraction of that of the first: it may be less than allowed. Ends if `target` is
    reached, or if no plan is as fast.
    """
    measured: dict[float, Estimate] = {}
    density = 1.0
    while density >= MIN_TIME_FRACTION:
        trial = 1.0 - density
        try:
            measured[trial] = measure(trial)
        except TooLittleTime:
            return
        bracket, fitted = _fit_bracket(measured, target)
        yield bracket, fitted
        if bracket.upper < 1.0:
            return
        density = TIME_STEP * min(density, read_fraction())


def _fit_bracket(measured: dict[float, Estimate], target: float) -> Step:
    order = sorted(measured)
    curve = fit_monotone([measured[s].apply(log) for s in order])
    fitted = {s: logs.apply(exp) for s, logs in zip(order, curve, strict=True)}
    upper = min((s for s in order if judge_at_least(fitted[s], target) is Verdict.HOLDS), default=1.0)
    return Bracket(max((s for s in order if s < upper), default=0.0), upper), fitted


@dataclass(frozen=True)
class _Structure:
    """A pruned program without tuning, with the bits of its weights and the predicted time of their reads, if they were planned."""

    program: Program
    bits: StoredBits | None
    microseconds: float = 0.0

    @property
    def key(self) -> object:
        """Equal for structures that take the same time."""
        shapes = tuple(tuple(tensor.shape) for tensor in self.program.parameters().values())
        bits = None if self.bits is None else (tuple(self.bits.tables.items()), tuple(self.bits.layers.items()))
        return shapes, bits


def _export_and_measure(
    dense: OnnxFile, pruned: _Structure, target: SpeedTarget, task: Task, settings: Settings
) -> Estimate:
    """Export `pruned`, in its planned bits, and time it against the dense file."""
    with tempfile.TemporaryDirectory() as scratch, show_status("Measuring the speed"):
        path = Path(scratch) / "model.onnx"
        serving = ServingConfig(target.batch_sizes, runtime=settings.export.runtime)
        file = export_onnx(pruned.program, path, serving=serving, bits=pruned.bits)
        quantized = quantize_export(
            file, QuantizationSettings(), target.batch_sizes, task, Path(scratch) / "quantized",
            threads=target.threads, seed=settings.seed, runtime=serving.runtime,
        )  # fmt: skip
        served = file if quantized is None else quantized.file
        requests = make_latency_requests(target.batch_sizes, task, served.signature)
        return target.measure(dense.path, served.path, requests, settings.seed)


def _prune_structure(
    program: Program,
    settings: Settings,
    task: Task,
    fields: FieldPlan,
    candidates: Sequence[Candidate] | None,
    label: str,
) -> _Structure:
    with show_status(f"Choosing channels at {label}"):
        plan = plan_pruning(
            program, settings.pruning, task,
            seed=settings.seed, fields=fields, candidates=candidates, serving=make_serving_config(settings),
        ).plan  # fmt: skip
    dense = rotate_channels(remove_fields_and_rows(program, plan, task, settings.seed), plan)
    pruned = apply_plan(dense, plan)
    if plan.storage is None:
        return _Structure(pruned, None)
    return _Structure(pruned, plan.storage.bits, plan.storage.point.microseconds)


def _format_trial(
    make_point: Callable[[float], OperatingPoint], fitted: dict[float, Estimate], target: SpeedTarget
) -> str:
    removed, speed = next(reversed(fitted.items()))
    verdict = judge_at_least(speed, target.threshold)
    return f"{make_point(removed).label}: {target.describe(speed)}: {target.words}: {verdict.text}"


def _raise_out_of_reach(point: OperatingPoint, reached: Estimate, target: SpeedTarget) -> NoReturn:
    if judge_at_least(reached, target.threshold) is Verdict.UNDECIDED:
        raise Undecided(
            f"At {point.label}, the last point of the search, the measured value is {target.describe(reached)}: the result is "
            f"inconclusive for the target, {target.words}. Set a lower target."
        )
    raise ValidationFailed(
        f"At {point.label}, the last point of the search, the measured value is {target.describe(reached)}; the target is "
        f"{target.words}. Set a lower target, or use `recprune-export profile` to find the slowest operators."
    )
