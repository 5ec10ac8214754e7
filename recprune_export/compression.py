"""The main job: from a trained recommender to a bundle. `compress_program` can be read from top to bottom."""

import datetime
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from recprune_export.bundle.contents import bundle_files, plan_summary
from recprune_export.bundle.manifest import MODEL, Manifest
from recprune_export.bundle.readme import bundle_readme
from recprune_export.bundle.write import check_target, write_bundle
from recprune_export.channels.analysis import Analysis, analyse
from recprune_export.environment import environment
from recprune_export.errors import PruningError, ValidationFailed
from recprune_export.finetuning.finetune import Schedule, finetune
from recprune_export.finetuning.objective import Objective, make_objective
from recprune_export.finetuning.task import (
    CLICKS,
    Answers,
    Batch,
    Recipe,
    SampledRequests,
    Task,
    answer,
)
from recprune_export.finetuning.zeros import ZeroTarget, parameter_counts
from recprune_export.onnx.counts import Counts, Reduction, count, reduction
from recprune_export.onnx.export import OnnxFile, Serving, export_onnx
from recprune_export.onnx.rewriting import Limits
from recprune_export.onnx.session import SessionOptions, make_session, run
from recprune_export.program.drawing import draw_request
from recprune_export.program.program import Program
from recprune_export.program.signature import Signature
from recprune_export.pruning.budget import Budget, Way, make_plan
from recprune_export.pruning.plan import Plan
from recprune_export.pruning.refit import refit
from recprune_export.pruning.rewrite import apply_plan
from recprune_export.pruning.rotation.apply import apply_transforms
from recprune_export.pruning.rotation.legality import find_rotatable
from recprune_export.pruning.rotation.loosen import NOTHING, find_loosening, loosen
from recprune_export.pruning.scores import Loss, ScoreInputs, rankings_by
from recprune_export.pruning.sizes import PartSizes, SizeModel
from recprune_export.pruning.soundness import Soundness, check_soundness
from recprune_export.settings import Settings
from recprune_export.training.loop import FitResult
from recprune_export.validation.contestants import (
    DENSE_ONNX,
    DENSE_TORCH,
    PRUNED_ONNX,
    PRUNED_TORCH,
    in_onnxruntime,
    in_torch,
    torch_threads,
)
from recprune_export.validation.footprint import FootprintReport, measure_footprints
from recprune_export.validation.latency import LatencyReport, measure
from recprune_export.validation.parity import ParityReport, check_parity
from recprune_export.validation.requests import Request, as_taken, edge_requests, in_full, repeated
from recprune_export.validation.roofline import roofline
from recprune_export.validation.session_advice import SessionAdvice, advise_session

CALIBRATION_BATCHES = 16  # for scores
PARITY_ROWS = 512
GOLDEN_ROWS = 16
DEFAULT_SCORE = "output-error"
DEFAULTS = Settings()


@dataclass(frozen=True)
class Stage:
    """A program that was pruned once and tuned, and how that came about; `plan` is that of this stage alone."""

    program: Program
    analysis: Analysis
    plan: Plan
    soundness: Soundness
    fitted: FitResult | None


@dataclass(frozen=True)
class Pruned:
    """A program that went through one stage or several, and how many non-zeros it may keep."""

    stages: tuple[Stage, ...]
    target: ZeroTarget

    @property
    def program(self) -> Program:
        """What the last stage left."""
        return self.stages[-1].program

    @property
    def plan(self) -> Plan:
        """The plans of all stages."""
        return Plan.of_stages([stage.plan for stage in self.stages])


@dataclass(frozen=True)
class Result:
    """What `compress_program` made and measured; `metrics` are those of the ONNX files on test rows."""

    target: Path
    manifest: Manifest
    counts: Mapping[str, Counts]
    reduction: Reduction
    metrics: Mapping[str, Mapping[str, float]]
    parity: ParityReport
    latency: LatencyReport
    footprints: FootprintReport
    session: SessionAdvice
    notes: tuple[str, ...]


def compress_program(
    program: Program,
    target: Path,
    settings: Settings = DEFAULTS,
    task: Task | None = None,
    *,
    plan: Plan | None = None,
    extra_files: Mapping[str, bytes] | None = None,
    command: Sequence[str] = (),
    model_name: str = "model",
    data_name: str | None = None,
) -> Result:
    """Prune, tune, export and validate `program`; write a bundle to `target`, whole or not at all.

    Without a `task` the pruned program is tuned towards the answers of `program` on requests drawn from its signature.

    Raises `UsageError` where nothing can be written to `target`, `PruningError` where the plan does not fit or the
    soundness check fails, `ExportError`, and `ValidationFailed` where parity or latency fail.
    """
    target = check_target(target)
    program.signature.with_shared(settings.shared_inputs)  # a wrong name is told before the work, not after
    task = task or drawn_requests(program, settings)
    pruned = prune(program, settings, task, plan)
    with tempfile.TemporaryDirectory() as scratch:
        dense_file = export_onnx(program, Path(scratch) / "dense.onnx", rewrites=())
        pruned_file = export_pruned(pruned, settings, Path(scratch) / MODEL)
        counts = {"dense": count(dense_file.path), "pruned": count(pruned_file.path)}
        parity = validate_parity(pruned.program, pruned_file, task)
        tested = pruned_file
        if settings.shared_inputs:  # rows of a test set share nothing; parity holds both files to the same program
            tested = export_onnx(pruned.program, Path(scratch) / "each_row.onnx")
        metrics = {name: task.test(_session(f)) for name, f in (("dense", dense_file), ("pruned", tested))}
        latency = validate_latency(program, pruned.program, dense_file, pruned_file, settings, task)
        footprints = cold_starts(dense_file, pruned_file, program.signature, settings)
        advice = advise(pruned_file, settings, task)
        gone = reduction(counts["dense"], counts["pruned"])
        notes = _notes(pruned, gone, parity, settings, task)
        manifest = Manifest(
            name=target.name,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            opset=pruned_file.opset,
            signature=pruned_file.signature.to_dict(),
            counts={name: c.to_dict() for name, c in counts.items()},
            metrics=metrics,
            parity=parity.to_dict(),
            latency={**latency.to_dict(), "footprint": footprints.to_dict()},
            plan=_summary(pruned.stages),
            settings={**settings.to_dict(), "command": list(command), "model": model_name, "data": data_name},
            environment=environment(),
            tolerances=parity.tolerances.to_dict(),
            session=advice.to_dict(),
            rewrites=[each.to_dict() for each in pruned_file.rewrites],
            cost=roofline(
                latency, {"dense": (DENSE_ONNX, dense_file.path), "pruned": (PRUNED_ONNX, pruned_file.path)}
            ).to_dict(),
        )
        golden = as_taken(task.requests(GOLDEN_ROWS, seed=2), pruned_file.signature)
        kept = (pruned_file, dense_file) if settings.keep_dense else (pruned_file,)
        response = answer(pruned.program, in_full(golden, pruned_file.signature))
        files = bundle_files(pruned.program, kept, pruned.plan, golden, response, Path(scratch))
        extra = dict(extra_files or {})
        readme = bundle_readme(target.name, manifest.signature, advice.options, encoding="encoding.json" in extra)
        write_bundle(target, {**files, **extra, "README.md": readme.encode()}, manifest)
    return Result(target, manifest, counts, gone, metrics, parity, latency, footprints, advice, notes)


def prune(program: Program, settings: Settings, task: Task, plan: Plan | None = None) -> Pruned:
    """Remove channels by a plan, prove the result, then add zeros while tuning. `program` is left as it is.

    With several `steps` that is done as often, each time with a part of the channels and of the epochs; zeros come last.
    The teacher is `program` in every stage (gradual pruning with tuning in between: Han et al. 2015, section 3.4).
    """
    if plan is not None:
        settings = replace(settings, steps=len(plan.stages))
    target = zero_target(SizeModel(program, analyse(program)).sizes(), settings)
    stages: list[Stage] = []
    for number in range(1, settings.steps + 1):
        given = plan.stages[number - 1] if plan is not None else None
        stages.append(_carry_out(program, stages, settings, task, given, target))
    return Pruned(tuple(stages), target)


def plan_all(program: Program, settings: Settings, task: Task) -> Plan:
    """Make the plans of all stages; all but the last are carried out for that, since a plan is made for tuned weights."""
    stages: list[Stage] = []
    for _ in range(settings.steps - 1):
        stages.append(_carry_out(program, stages, settings, task))
    last = decide(stages[-1].program if stages else program, settings, task, dense=program)
    return Plan.of_stages([*(stage.plan for stage in stages), last])


def _carry_out(
    dense: Program,
    before: Sequence[Stage],
    settings: Settings,
    task: Task,
    plan: Plan | None = None,
    target: ZeroTarget | None = None,
) -> Stage:
    """Decide, prune and tune once more after the stages `before`; `target` is for the last stage."""
    number = len(before) + 1
    program = before[-1].program if before else dense
    plan = plan or decide(program, settings.at_stage(number), task, dense=dense)
    original, analysis = rotate(program, plan)
    student = apply_plan(original, analysis, plan)
    soundness = check_soundness(original, analysis, plan, student)
    if settings.refit:
        refit(original, analysis, plan, student, _calibration(task, settings.seed))
    tables = analyse(student).tables
    if target is None or number < settings.steps:
        target = ZeroTarget(*parameter_counts(student, tables))
    fitted = finetune(student, dense.with_own_graph(), task, tables, target, schedule_of(task.recipe, settings, number))
    return Stage(student, analysis, plan, soundness, fitted)


def schedule_of(recipe: Recipe, settings: Settings, stage: int) -> Schedule:
    """Return how long and how fast to tune in a stage: an equal part of the epochs, at least one, the last what is left.

    >>> recipe = Recipe(epochs=5, learning_rate=1e-3, batch_size=64)
    >>> [schedule_of(recipe, Settings(steps=3), stage).epochs for stage in (1, 2, 3)]
    [1, 1, 3]
    """
    part = max(1, recipe.epochs // settings.steps)
    left = max(1, recipe.epochs - part * (settings.steps - 1))
    epochs = 0 if recipe.epochs == 0 else left if stage == settings.steps else part
    return Schedule(
        epochs,
        recipe.learning_rate,
        settings.zeros == "gradual",
        settings.seed,
        warm_up=settings.warm_up,
        ema=settings.ema,
    )


def rotate(program: Program, plan: Plan) -> tuple[Program, Analysis]:
    """Return a program that answers as `program` does, in the channels that `plan` speaks of, and its analysis."""
    loose = loosen(program, plan.loosening)
    analysis = analyse(loose)
    return apply_transforms(loose, analysis, find_rotatable(loose, analysis).rotatable, plan.transforms), analysis


def decide(program: Program, settings: Settings, task: Task, *, dense: Program | None = None) -> Plan:
    """Score the channels and make a plan within the budget; sparsity is a part of `dense`, if not of `program` itself.

    Raises `PruningError` where there is nothing to prune.
    """
    analysis = analyse(program)
    if not analysis.groups:
        reasons = "; ".join(dict.fromkeys(axis.reason.text for axis in analysis.frozen)) or "it has no parameters"
        raise PruningError(f"No channel of this model can be removed: {reasons}. `recprune-export inspect` says where.")
    sizes = SizeModel(program, analysis).sizes() if dense is None else SizeModel(dense, analyse(dense)).sizes()
    name = DEFAULT_SCORE if settings.score == "auto" else settings.score
    by_error = name == DEFAULT_SCORE
    loosening = find_loosening(program, analysis) if by_error else NOTHING
    if loosening:
        program = loosen(program, loosening)
        analysis = analyse(program)
    inputs = ScoreInputs(
        program, analysis, _calibration(task, settings.seed), _loss(task.objective), task.objective.probe, settings.seed
    )
    budget = Budget(settings.table_sparsity, settings.rest_sparsity, settings.structured_share, settings.round_to)
    way: Way = "loss" if by_error else "uniform"
    plan = make_plan(program, analysis, rankings_by(name, inputs), budget, name, way, dense=sizes)
    return replace(plan, loosening=loosening)


def drawn_requests(program: Program, settings: Settings) -> SampledRequests:
    """Return the task of a program without rows."""
    return SampledRequests(program, make_objective(program, ()), recipe_for(CLICKS, settings))


def recipe_for(suited: Recipe, settings: Settings) -> Recipe:
    """Return what suits the rows, but the user's word first."""
    wishes = {name: getattr(settings, name) for name in ("epochs", "learning_rate", "batch_size")}
    return replace(suited, **{name: value for name, value in wishes.items() if value is not None})


def zero_target(dense: PartSizes, settings: Settings) -> ZeroTarget:
    """Return how many non-zeros each part may keep."""
    return ZeroTarget(
        tables=int((1.0 - settings.table_sparsity) * dense.tables),
        rest=int((1.0 - settings.rest_sparsity) * dense.rest),
    )


def export_pruned(pruned: Pruned, settings: Settings, path: Path) -> OnnxFile:
    """Write the ONNX file that is served; no rewrite may undo what was removed."""
    serving = Serving(settings.batches, settings.shared_inputs)
    return export_onnx(pruned.program, path, serving=serving, limits=Limits(pruned.target.tables, pruned.target.rest))


def validate_parity(program: Program, file: OnnxFile, task: Task) -> ParityReport:
    """Compare the ONNX file with the pruned program on test rows, drawn rows and edge rows.

    Raises `ValidationFailed` with the first difference.
    """
    signature = file.signature
    requests = {
        "test rows": as_taken(task.requests(PARITY_ROWS, seed=0), signature),
        "drawn rows": draw_request(signature, PARITY_ROWS // 2, seed=1),
        **edge_requests(signature),
    }
    report = check_parity(lambda request: answer(program, in_full(request, signature)), _session(file), requests)
    if not report.passed:
        raise ValidationFailed(
            f"The ONNX model does not give the pruned model's outputs, so nothing was written. {report.failures[0]}"
        )
    return report


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


def latency_requests(settings: Settings, task: Task, signature: Signature) -> dict[int, Request]:
    """Return a request of test rows for each batch size; what is shared is the same in all of its rows."""
    rows = in_full(as_taken(task.requests(max(settings.batches), seed=0), signature), signature)
    return {batch: repeated(rows, batch) for batch in settings.batches}


def cold_starts(
    dense_file: OnnxFile, pruned_file: OnnxFile, signature: Signature, settings: Settings
) -> FootprintReport:
    """Measure load time, first request and memory of both ONNX files in fresh processes."""
    options = SessionOptions(threads=settings.threads)
    models = {DENSE_ONNX: (dense_file.path, options), PRUNED_ONNX: (pruned_file.path, options)}
    return measure_footprints(models, signature, max(settings.batches))


def advise(file: OnnxFile, settings: Settings, task: Task) -> SessionAdvice:
    """Find the session options that suit the artifact on this machine."""
    plain = SessionOptions(threads=settings.threads)
    return advise_session(file.path, latency_requests(settings, task, file.signature), plain=plain, seed=settings.seed)


def _summary(stages: Sequence[Stage]) -> dict[str, Any]:
    first, *others = stages
    summary = plan_summary(first.plan, first.analysis, first.soundness, first.fitted)
    return {**summary, "then": _summary(others)} if others else summary


def _notes(pruned: Pruned, gone: Reduction, parity: ParityReport, settings: Settings, task: Task) -> tuple[str, ...]:
    """Say in sentences what the user should know and would not look for."""
    notes = []
    if isinstance(task, SampledRequests):
        notes.append(
            "No --data: tuned on drawn requests towards the dense model's answers alone, and no quality was measured. "
            "With rows of real traffic the result is better, and known."
        )
    wanted = (("tables", gone.tables, settings.table_sparsity), ("rest", gone.rest, settings.rest_sparsity))
    for part, reached, asked in wanted:
        if reached < asked - 1e-9:
            notes.append(f"Asked for {asked:.1%} fewer parameters in the {part}, reached {reached:.1%}.")
    for output in parity.outputs:
        if output.not_finite:
            notes.append(
                f"The model itself answers NaN or infinity in {output.not_finite} numbers of '{output.name}' for unusual "
                "requests, such as empty histories, and so does the artifact."
            )
    analysis = pruned.stages[0].analysis
    frozen = sum(axis.count for axis in analysis.frozen if "returns" not in axis.reason.text)
    if frozen and not analysis.groups:
        notes.append("Nothing could be removed; only zeros were set.")
    return tuple(notes)


def _calibration(task: Task, seed: int) -> list[Batch]:
    batches = task.training_batches(seed)
    return [batch for batch, _ in zip(batches, range(CALIBRATION_BATCHES), strict=False)]


def _loss(objective: Objective) -> Loss:
    """The loss for scores: labels where there are any, else the size of the answer, which a zeroed channel changes."""

    def loss(response: Mapping[str, torch.Tensor], labels: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if labels and objective.label_of:
            return objective.supervised(response, labels)
        return torch.stack([response[name].square().mean() for name in objective.meanings]).sum()

    return loss


def _session(file: OnnxFile) -> Answers:
    session = make_session(file.path, torch.get_num_threads())
    return lambda request: run(session, request)
