"""`find_sparsity_for_speedup`: the smallest sparsity at which the artifact reaches a speed-up."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import exp, log
from pathlib import Path

from recprune_export.errors import Undecided, ValidationFailed
from recprune_export.evidence import Estimate, Verdict, judge_at_least
from recprune_export.finetuning.task import Task
from recprune_export.number_formats import format_estimate
from recprune_export.onnx.export import ServingConfig, export_onnx
from recprune_export.pipeline._prune import rotate_channels
from recprune_export.pipeline.latency_requests import make_latency_requests
from recprune_export.pipeline.planning import plan_fields, plan_pruning, remove_fields_and_rows
from recprune_export.program.program import Program
from recprune_export.progress import show_status
from recprune_export.pruning.apply._apply_plan import apply_plan
from recprune_export.pruning.plan import FieldPlan
from recprune_export.search.bisection import MAX_SPARSITY, Bracket
from recprune_export.search.measure_speedup import measure_speedup
from recprune_export.search.monotone_fit import fit_monotone
from recprune_export.settings import PruningSettings


@dataclass(frozen=True)
class SpeedTarget:
    """The speed-up over the dense model in ONNX Runtime, as a geometric mean over batch sizes."""

    speedup: float
    batch_sizes: tuple[int, ...]
    threads: int = 1

    @property
    def conditions(self) -> str:
        """The conditions of the measurement, in words."""
        sizes = list(map(str, self.batch_sizes))
        listed = ", ".join(sizes[:-1]) + " and " + sizes[-1] if len(sizes) > 1 else sizes[0]
        threads = f"{self.threads} thread" + ("s" if self.threads > 1 else "")
        return f"batch size {listed}, {threads}" if len(sizes) == 1 else f"mean of batch sizes {listed}, {threads}"


@dataclass(frozen=True)
class SpeedSearchResult:
    """The smallest sparsity that certainly reaches the target, its speed-up, and the number of files that were timed."""

    sparsity: float
    speedup: Estimate
    measured: int


def find_sparsity_for_speedup(
    program: Program,
    pruning: PruningSettings,
    target: SpeedTarget,
    task: Task,
    report: Callable[[str], None] = lambda text: None,
    *,
    seed: int = 0,
) -> SpeedSearchResult:
    """Search by structure alone, without fine-tuning or quantization, for weights do not change the time.

    The speed-up rises with the sparsity, so the measurements at all sparsities are fitted together (`fit_monotone`). A model
    with the shapes of an earlier one is not timed again, and the dense model is exported once.

    Raises `ValidationFailed` where even the largest sparsity is certainly not enough, `Undecided` where that cannot be told.
    """
    fields = plan_fields(program, pruning.prune_fields, task, seed)
    timed: dict[tuple[tuple[int, ...], ...], Estimate] = {}

    with tempfile.TemporaryDirectory() as scratch:
        dense = export_onnx(program, Path(scratch) / "dense.onnx", rewrites=()).path

        def measure(sparsity: float) -> Estimate:
            pruned = _prune_structure(program, pruning.at_sparsity(sparsity), task, fields, seed)
            shapes = tuple(tuple(tensor.shape) for tensor in pruned.parameters().values())
            if shapes not in timed:
                timed[shapes] = _export_and_measure(dense, pruned, target, task, seed)
            return timed[shapes]

        steps = []
        for step in bisect_monotone(measure, target.speedup, pruning.sparsity, MAX_SPARSITY):
            steps.append(step)
            report(_format_trial(step[1], target))
    bracket, fitted = steps[-1]
    if bracket.upper == 1.0:
        _raise_out_of_reach(fitted[bracket.lower], target)
    return SpeedSearchResult(bracket.upper, fitted[bracket.upper], len(timed))


def bisect_monotone(
    measure: Callable[[float], Estimate], target: float, first: float, most: float
) -> Iterator[tuple[Bracket, dict[float, Estimate]]]:
    """Yield ever narrower brackets of the least sparsity that certainly reaches `target`, with all fitted estimates so far.

    `upper` reaches it, or is 1 while none is known that does; `lower` does not certainly. The newest trial is the last entry.
    """
    measured: dict[float, Estimate] = {}
    trial = first
    while True:
        measured[trial] = measure(trial)
        order = sorted(measured)
        curve = fit_monotone([measured[s].apply(log) for s in order])
        fitted = {s: logs.apply(exp) for s, logs in zip(order, curve, strict=True)}
        upper = min((s for s in order if judge_at_least(fitted[s], target) is Verdict.HOLDS), default=1.0)
        lower = max((s for s in order if s < upper), default=0.0)
        bracket = Bracket(lower, upper)
        yield bracket, {**{s: e for s, e in fitted.items() if s != trial}, trial: fitted[trial]}
        if bracket.lower >= most or (bracket.upper < 1.0 and bracket.narrow):
            return
        trial = most if bracket.upper >= 1.0 else bracket.middle


def _export_and_measure(dense: Path, pruned: Program, target: SpeedTarget, task: Task, seed: int) -> Estimate:
    """Export `pruned` and time it against the dense file."""
    with tempfile.TemporaryDirectory() as scratch, show_status("Measuring the speed-up"):
        pruned_file = export_onnx(pruned, Path(scratch) / "model.onnx", serving=ServingConfig(target.batch_sizes))
        requests = make_latency_requests(target.batch_sizes, task, pruned_file.signature)
        return measure_speedup(dense, pruned_file.path, requests, target.threads, seed)


def _prune_structure(program: Program, pruning: PruningSettings, task: Task, fields: FieldPlan, seed: int) -> Program:
    with show_status(f"Choosing the channels to remove at sparsity {pruning.sparsity:.3f}"):
        plan = plan_pruning(program, pruning, task, seed=seed, fields=fields).plan
    dense = rotate_channels(remove_fields_and_rows(program, plan, task, seed), plan)
    return apply_plan(dense, plan)


def _format_trial(fitted: dict[float, Estimate], target: SpeedTarget) -> str:
    sparsity, speed = next(reversed(fitted.items()))
    verdict = judge_at_least(speed, target.speedup)
    return (
        f"sparsity {sparsity:.3f}: {format_estimate(speed, '.2f')} times as fast as dense "
        f"({target.conditions}): at least {target.speedup:g} {verdict.words}"
    )


def _raise_out_of_reach(reached: Estimate, target: SpeedTarget) -> None:
    text = (
        f"At a sparsity of {MAX_SPARSITY:g} the model is {format_estimate(reached, '.2f')} times as "
        f"fast as the dense one in ONNX Runtime ({target.conditions})"
    )
    if judge_at_least(reached, target.speedup) is Verdict.UNDECIDED:
        raise Undecided(
            f"{text}: whether that is {target.speedup:g} times cannot be told on this machine; ask for less."
        )
    raise ValidationFailed(
        f"{text}, not {target.speedup:g} times: ask for less, or see `recprune-export profile` for the operators that take the time."
    )
