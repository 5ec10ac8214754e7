"""`prune`: fields, channels and zeros go, in one stage or several; each stage is decided, carried out, proved and tuned."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from recprune_export.channels.analysis import Analysis
from recprune_export.data.batch import Batch
from recprune_export.errors import UsageError
from recprune_export.finetuning.curvature import Curvature, weight_curvature
from recprune_export.finetuning.finetune import Schedule, finetune
from recprune_export.finetuning.group_lasso import RegularizedProgram, regularize
from recprune_export.finetuning.masks import NonZeroTarget, parameter_counts
from recprune_export.finetuning.task import FineTuningConfig, Task
from recprune_export.pipeline.planning import (
    decide_with_projections,
    plan_fields,
    plan_pruning,
    read_calibration_batches,
    share_planned_rows,
)
from recprune_export.pipeline.stage_checkpoints import NO_CHECKPOINTS, StageCheckpoints
from recprune_export.program.program import Program
from recprune_export.progress import show_status
from recprune_export.pruning.allocation.parameter_counts import ParameterCounter, ParameterCounts
from recprune_export.pruning.apply.apply_plan import apply_plan, tables_left
from recprune_export.pruning.apply.soundness import Soundness, check_soundness
from recprune_export.pruning.fields.field_selection import remove_fields
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.plan import FieldPlan, Plan
from recprune_export.pruning.rare_ids.shared_row_proof import check_rows
from recprune_export.pruning.reconstruction.least_squares import reconstruct_layers
from recprune_export.pruning.rotation.apply_transforms import apply_transforms
from recprune_export.pruning.rotation.eligibility import find_rotatable_groups
from recprune_export.pruning.rotation.projections import insert_projections
from recprune_export.settings import Settings
from recprune_export.training.loop import FitResult

CURVATURE_BATCHES, CURVATURE_ANSWERS = 64, 1 << 16  # whichever comes first


@dataclass(frozen=True)
class PrunedStage:
    """A program that was pruned by a plan and tuned, and how it came about; `shared_row_proof` is the proof of shared rows, if any."""

    program: Program
    analysis: Analysis
    plan: Plan
    soundness: Soundness
    fitted: FitResult | None
    shared_row_proof: Soundness | None = None


@dataclass(frozen=True)
class PrunedModel:
    """A program that went through one stage or several, and how many non-zeros it may keep."""

    stages: tuple[PrunedStage, ...]
    target: NonZeroTarget
    regularized: RegularizedProgram | None = None

    @property
    def program(self) -> Program:
        """What the last stage left."""
        return self.stages[-1].program

    @property
    def plan(self) -> Plan:
        """The plans of all stages."""
        return Plan.from_stages([stage.plan for stage in self.stages])


@dataclass(frozen=True)
class SearchPrefix:
    """What comes before the sparsity matters, for one seed: regularised training, and the fields that go.

    `rng_state` is the state of the random numbers afterwards, so that what follows is the same as in a run of its own.
    """

    regularized: RegularizedProgram | None
    fields: FieldPlan
    rng_state: Tensor


def run_search_prefix(program: Program, settings: Settings, task: Task) -> SearchPrefix:
    """Do what all of a search's trials with the same seed have in common."""
    regularised = regularize_channels(program, settings, task)
    fields = plan_fields(regularised.program if regularised else program, settings, task)
    return SearchPrefix(regularised, fields, torch.get_rng_state())


def prune(
    program: Program,
    settings: Settings,
    task: Task,
    plan: Plan | None = None,
    checkpoints: StageCheckpoints = NO_CHECKPOINTS,
    search_prefix: SearchPrefix | None = None,
) -> PrunedModel:
    """Remove fields and channels by a plan, prove the result, then add zeros while tuning. `program` is left as it is.

    With several `steps` that is done as often, each time with a part of the channels and of the epochs; zeros come last.
    The teacher is `program` in every stage (gradual pruning with tuning in between: Han et al. 2015, section 3.4).
    What takes long is kept in `checkpoints`, and taken from there where an earlier run left it: with the same result. `search_prefix`
    is what `run_search_prefix` made for the same program, settings but for the sparsity, and rows.

    Raises `UsageError` where more fields are to go than can, or nothing tells which ids are rare, `PruningError` where the
    plan does not fit.
    """
    if plan is not None and settings.prune_fields:
        raise UsageError("A plan says itself which fields go: leave out --prune-fields, or the plan.")
    if plan is not None and settings.prune_rows is not None:
        raise UsageError("A plan says itself which rows go: leave out --prune-rows, or the plan.")
    if plan is not None:
        settings = replace(settings, steps=len(plan.stages))
    if search_prefix is not None:
        torch.set_rng_state(search_prefix.rng_state)
    made, fields = (search_prefix.regularized, search_prefix.fields) if search_prefix is not None else (None, None)
    regularised = regularize_channels(program, settings, task, checkpoints, made)
    course = _Context(program, ParameterCounter(program).sizes(), settings, task, checkpoints)
    target = zero_target(course.sizes, settings)
    start = regularised.program if regularised else program
    stages: list[PrunedStage] = []
    for number in range(1, settings.steps + 1):
        given = plan.stages[number - 1] if plan is not None else None
        stages.append(_run_stage(course, start, number, given, fields, target if number == settings.steps else None))
        fields = None
        start = stages[-1].program
    return PrunedModel(tuple(stages), target, regularised)


def plan_all(program: Program, settings: Settings, task: Task) -> Plan:
    """Make the plans of all stages; all but the last are carried out for that, since a plan is made for tuned weights."""
    regularised = regularize_channels(program, settings, task)
    start = regularised.program if regularised else program
    course = _Context(program, ParameterCounter(program).sizes(), settings, task)
    plans: list[Plan] = []
    for number in range(1, settings.steps):
        stage = _run_stage(course, start, number)
        plans.append(stage.plan)
        start = stage.program
    with show_status("Choosing what goes"):
        last = plan_pruning(start, settings.at_stage(settings.steps), task, dense=course.sizes)
    return Plan.from_stages([*plans, last])


@dataclass(frozen=True)
class _Context:
    """What all stages share: the dense program, which teaches, with its sizes; what was asked; rows; finished work."""

    dense: Program
    sizes: ParameterCounts
    settings: Settings
    task: Task
    checkpoints: StageCheckpoints = NO_CHECKPOINTS


@dataclass(frozen=True)
class _StageInput:
    """`original`, in the channels that `plan` speaks of, and the `student` that the plan left of it."""

    original: Program
    plan: Plan
    student: Program


def _run_stage(
    course: _Context,
    start: Program,
    number: int,
    plan: Plan | None = None,
    fields: FieldPlan | None = None,
    target: NonZeroTarget | None = None,
) -> PrunedStage:
    """Decide, prune and tune what the stage before left, `start`; without a `target` no zeros are added."""
    settings, task = course.settings, course.task
    kept = course.checkpoints.load(f"stage-{number}")
    if kept is not None:
        plan = Plan.from_dict(kept.values["plan"])
    with show_status("Choosing what goes"):
        stage, last = settings.at_stage(number), settings.at_stage(settings.steps)
        decision = None
        if plan is None:
            decision = decide_with_projections(start, stage, task, dense=course.sizes, fields=fields, last=last)
            plan = decision.plan
    rest = remove_fields(start, plan.fields)
    smaller = share_planned_rows(rest.program, plan.rows, settings, task)
    shared = check_rows(rest.program, smaller, plan.rows) if plan.rows else None
    original = turn(decision.loose, plan) if decision is not None else rotate_channels(smaller, plan)
    student = apply_plan(original, plan)
    soundness = check_soundness(original, plan, student).combine(rest.soundness)
    if kept is not None:
        kept.restore(student.module)
        fitted = _fit_result(kept.values["fitted"])
    else:
        fitted = _tune(course, number, _StageInput(original, plan, student), target)
        told = None if fitted is None else fitted.to_dict()
        values = {"plan": plan.to_dict(), "fitted": told}
        title = f"pruning and tuning, stage {number} of {settings.steps}"
        course.checkpoints.save(f"stage-{number}", title, values, student.module)
    return PrunedStage(student, original.analysis, plan, soundness, fitted, shared)


def _tune(course: _Context, number: int, cut: _StageInput, target: NonZeroTarget | None) -> FitResult | None:
    """Refit and tune the student in place."""
    settings, task, student = course.settings, course.task, cut.student
    if settings.refit:
        with show_status("Refitting layers"):
            reconstruct_layers(cut.original, cut.plan, student, read_calibration_batches(task, settings.seed))
    tables = tables_left(cut.original, student)
    if target is None:
        target = NonZeroTarget(*parameter_counts(student, tables))
    curvature = estimate_curvature(student, cut.plan, tables, task, settings)
    schedule = make_stage_schedule(task.config, settings, number)
    teacher = course.dense.with_copied_graph()
    return finetune(student, teacher, task, tables, target, schedule, curvature)


def _fit_result(values: Mapping[str, Any] | None) -> FitResult | None:
    return None if values is None else FitResult.from_dict(values)


def make_stage_schedule(recipe: FineTuningConfig, settings: Settings, stage: int) -> Schedule:
    """Return how long and how fast to tune in a stage: an equal part of the epochs, at least one, the last what is left.

    >>> recipe = FineTuningConfig(epochs=5, learning_rate=1e-3, batch_size=64)
    >>> [make_stage_schedule(recipe, Settings(steps=3), stage).epochs for stage in (1, 2, 3)]
    [1, 1, 3]
    """
    part = max(1, recipe.epochs // settings.steps)
    left = max(1, recipe.epochs - part * (settings.steps - 1))
    epochs = 0 if recipe.epochs == 0 else left if stage == settings.steps else part
    return replace(make_schedule(recipe, settings), epochs=epochs)


def make_schedule(recipe: FineTuningConfig, settings: Settings) -> Schedule:
    """Return how long and how fast to train where there is one stage."""
    gradual = settings.zeros == "gradual"
    return Schedule(recipe.epochs, recipe.learning_rate, gradual, settings.seed)


def regularize_channels(
    program: Program,
    settings: Settings,
    task: Task,
    checkpoints: StageCheckpoints = NO_CHECKPOINTS,
    precomputed: RegularizedProgram | None = None,
) -> RegularizedProgram | None:
    """Train a copy of the dense program so that channels shrink to zero, where the user asks for it.

    What a search has `precomputed` of it is kept in `checkpoints` like one's own.
    """
    if not settings.regularise:
        return None
    kept = checkpoints.load("regularised")
    if kept is not None:
        copy = program.with_copied_parameters()
        kept.restore(copy.module)
        fitted, zero = FitResult.from_dict(kept.values["fitted"]), kept.values["zero"]
        return RegularizedProgram(copy, settings.regularise, zero, fitted)
    if precomputed is None:
        precomputed = regularize(program, task, settings.regularise, make_schedule(task.config, settings))
    values = {"zero": dict(precomputed.zero_channels), "fitted": precomputed.fitted.to_dict()}
    checkpoints.save("regularised", "the regularised training", values, precomputed.program.module)
    return precomputed


def rotate_channels(program: Program, plan: Plan) -> Program:
    """Return a program that answers as `program` does, in the channels that `plan` speaks of."""
    return turn(insert_projections(program, plan.projection_plan), plan)


def turn(loose: Program, plan: Plan) -> Program:
    """Do what is left of `rotate_channels` where the program was loosened."""
    return apply_transforms(loose, find_rotatable_groups(loose).rotatable, plan.transforms)


def estimate_curvature(
    student: Program, plan: Plan, tables: frozenset[str], task: Task, settings: Settings
) -> Curvature | None:
    """Return what zeros are chosen by where channels were chosen by output error; other scores go with magnitude."""
    if plan.score != OUTPUT_ERROR:
        return None
    lessons = task.distillation_data(student, student)
    batches = _until(CURVATURE_ANSWERS, islice(lessons.batches(settings.seed), CURVATURE_BATCHES))
    return weight_curvature(lessons.student, tables, batches, task.objective.probe, settings.seed)


def _until(answers: int, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches until a program has answered so often: once for each row, or each place of a history."""
    for request, labels in batches:
        yield request, labels
        answers -= max(len(values) for values in request.values())
        if answers <= 0:
            return


def zero_target(dense: ParameterCounts, settings: Settings) -> NonZeroTarget:
    """Return how many non-zeros each part may keep."""
    return NonZeroTarget.from_sparsity(dense, settings.table_sparsity, settings.rest_sparsity)
