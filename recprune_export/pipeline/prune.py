"""`prune`: fields, channels and zeros go, in one stage or several; each stage is decided, carried out, proved and tuned."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from recprune_export.channels.analysis import Analysis
from recprune_export.errors import UsageError
from recprune_export.finetuning.curvature import Curvature, weight_curvature
from recprune_export.finetuning.finetune import Schedule, finetune
from recprune_export.finetuning.group_lasso import Regularised, regularise
from recprune_export.finetuning.masks import ZeroTarget, parameter_counts
from recprune_export.finetuning.task import Batch, Recipe, Task
from recprune_export.pipeline.planning import calibration, decide, decide_and_loosen, decide_fields, share
from recprune_export.pipeline.stage_checkpoints import NO_WORK, Work
from recprune_export.program.program import Program
from recprune_export.progress import doing
from recprune_export.pruning.allocation.parameter_counts import PartSizes, SizeModel
from recprune_export.pruning.apply.apply_plan import apply_plan, tables_left
from recprune_export.pruning.apply.soundness import Soundness, check_soundness
from recprune_export.pruning.fields.field_selection import remove_fields
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.plan import FieldPlan, Plan
from recprune_export.pruning.rare_ids.shared_row_proof import check_rows
from recprune_export.pruning.reconstruction.least_squares import refit
from recprune_export.pruning.rotation.apply_transforms import apply_transforms
from recprune_export.pruning.rotation.eligibility import find_rotatable
from recprune_export.pruning.rotation.projections import loosen
from recprune_export.settings import Settings
from recprune_export.training.loop import FitResult

CURVATURE_BATCHES, CURVATURE_ANSWERS = 64, 1 << 16  # whichever comes first


@dataclass(frozen=True)
class Stage:
    """A program that was pruned by a plan and tuned, and how it came about; `shared` is the proof of shared rows, if any."""

    program: Program
    analysis: Analysis
    plan: Plan
    soundness: Soundness
    fitted: FitResult | None
    shared: Soundness | None = None


@dataclass(frozen=True)
class Pruned:
    """A program that went through one stage or several, and how many non-zeros it may keep."""

    stages: tuple[Stage, ...]
    target: ZeroTarget
    regularised: Regularised | None = None

    @property
    def program(self) -> Program:
        """What the last stage left."""
        return self.stages[-1].program

    @property
    def plan(self) -> Plan:
        """The plans of all stages."""
        return Plan.of_stages([stage.plan for stage in self.stages])


@dataclass(frozen=True)
class Beginning:
    """What comes before the sparsity matters, for one seed: regularised training, and the fields that go.

    `random` is the state of the random numbers afterwards, so that what follows is the same as in a run of its own.
    """

    regularised: Regularised | None
    fields: FieldPlan
    random: Tensor


def begin(program: Program, settings: Settings, task: Task) -> Beginning:
    """Do what all of a search's trials with the same seed have in common."""
    regularised = regularise_channels(program, settings, task)
    fields = decide_fields(regularised.program if regularised else program, settings, task)
    return Beginning(regularised, fields, torch.get_rng_state())


def prune(
    program: Program,
    settings: Settings,
    task: Task,
    plan: Plan | None = None,
    work: Work = NO_WORK,
    beginning: Beginning | None = None,
) -> Pruned:
    """Remove fields and channels by a plan, prove the result, then add zeros while tuning. `program` is left as it is.

    With several `steps` that is done as often, each time with a part of the channels and of the epochs; zeros come last.
    The teacher is `program` in every stage (gradual pruning with tuning in between: Han et al. 2015, section 3.4).
    What takes long is kept in `work`, and taken from there where an earlier run left it: with the same result. `beginning`
    is what `begin` made for the same program, settings but for the sparsity, and rows.

    Raises `UsageError` where more fields are to go than can, or nothing tells which ids are rare, `PruningError` where the
    plan does not fit.
    """
    if plan is not None and settings.prune_fields:
        raise UsageError("A plan says itself which fields go: leave out --prune-fields, or the plan.")
    if plan is not None and settings.prune_rows is not None:
        raise UsageError("A plan says itself which rows go: leave out --prune-rows, or the plan.")
    if plan is not None:
        settings = replace(settings, steps=len(plan.stages))
    if beginning is not None:
        torch.set_rng_state(beginning.random)
    made, fields = (beginning.regularised, beginning.fields) if beginning is not None else (None, None)
    regularised = regularise_channels(program, settings, task, work, made)
    course = _Course(program, SizeModel(program).sizes(), settings, task, work)
    target = zero_target(course.sizes, settings)
    start = regularised.program if regularised else program
    stages: list[Stage] = []
    for number in range(1, settings.steps + 1):
        given = plan.stages[number - 1] if plan is not None else None
        stages.append(_carry_out(course, start, number, given, fields, target if number == settings.steps else None))
        fields = None
        start = stages[-1].program
    return Pruned(tuple(stages), target, regularised)


def plan_all(program: Program, settings: Settings, task: Task) -> Plan:
    """Make the plans of all stages; all but the last are carried out for that, since a plan is made for tuned weights."""
    regularised = regularise_channels(program, settings, task)
    start = regularised.program if regularised else program
    course = _Course(program, SizeModel(program).sizes(), settings, task)
    plans: list[Plan] = []
    for number in range(1, settings.steps):
        stage = _carry_out(course, start, number)
        plans.append(stage.plan)
        start = stage.program
    with doing("Choosing what goes"):
        last = decide(start, settings.at_stage(settings.steps), task, dense=course.sizes)
    return Plan.of_stages([*plans, last])


@dataclass(frozen=True)
class _Course:
    """What all stages share: the dense program, which teaches, with its sizes; what was asked; rows; finished work."""

    dense: Program
    sizes: PartSizes
    settings: Settings
    task: Task
    work: Work = NO_WORK


@dataclass(frozen=True)
class _Cut:
    """`original`, in the channels that `plan` speaks of, and the `student` that the plan left of it."""

    original: Program
    plan: Plan
    student: Program


def _carry_out(
    course: _Course,
    start: Program,
    number: int,
    plan: Plan | None = None,
    fields: FieldPlan | None = None,
    target: ZeroTarget | None = None,
) -> Stage:
    """Decide, prune and tune what the stage before left, `start`; without a `target` no zeros are added."""
    settings, task = course.settings, course.task
    kept = course.work.find(f"stage-{number}")
    if kept is not None:
        plan = Plan.from_dict(kept.values["plan"])
    with doing("Choosing what goes"):
        stage, last = settings.at_stage(number), settings.at_stage(settings.steps)
        decision = None
        if plan is None:
            decision = decide_and_loosen(start, stage, task, dense=course.sizes, fields=fields, last=last)
            plan = decision.plan
    rest = remove_fields(start, plan.fields)
    smaller = share(rest.program, plan.rows, settings, task)
    shared = check_rows(rest.program, smaller, plan.rows) if plan.rows else None
    original = turn(decision.loose, plan) if decision is not None else rotate(smaller, plan)
    student = apply_plan(original, plan)
    soundness = check_soundness(original, plan, student).together_with(rest.soundness)
    if kept is not None:
        kept.restore(student.module)
        fitted = _fit_result(kept.values["fitted"])
    else:
        fitted = _tune(course, number, _Cut(original, plan, student), target)
        told = None if fitted is None else fitted.to_dict()
        values = {"plan": plan.to_dict(), "fitted": told}
        title = f"pruning and tuning, stage {number} of {settings.steps}"
        course.work.keep(f"stage-{number}", title, values, student.module)
    return Stage(student, original.analysis, plan, soundness, fitted, shared)


def _tune(course: _Course, number: int, cut: _Cut, target: ZeroTarget | None) -> FitResult | None:
    """Refit and tune the student in place."""
    settings, task, student = course.settings, course.task, cut.student
    if settings.refit:
        with doing("Refitting layers"):
            refit(cut.original, cut.plan, student, calibration(task, settings.seed))
    tables = tables_left(cut.original, student)
    if target is None:
        target = ZeroTarget(*parameter_counts(student, tables))
    curvature = curvature_of(student, cut.plan, tables, task, settings)
    schedule = schedule_of(task.recipe, settings, number)
    teacher = course.dense.with_own_graph()
    return finetune(student, teacher, task, tables, target, schedule, curvature)


def _fit_result(values: Mapping[str, Any] | None) -> FitResult | None:
    return None if values is None else FitResult.from_dict(values)


def schedule_of(recipe: Recipe, settings: Settings, stage: int) -> Schedule:
    """Return how long and how fast to tune in a stage: an equal part of the epochs, at least one, the last what is left.

    >>> recipe = Recipe(epochs=5, learning_rate=1e-3, batch_size=64)
    >>> [schedule_of(recipe, Settings(steps=3), stage).epochs for stage in (1, 2, 3)]
    [1, 1, 3]
    """
    part = max(1, recipe.epochs // settings.steps)
    left = max(1, recipe.epochs - part * (settings.steps - 1))
    epochs = 0 if recipe.epochs == 0 else left if stage == settings.steps else part
    return replace(whole_schedule(recipe, settings), epochs=epochs)


def whole_schedule(recipe: Recipe, settings: Settings) -> Schedule:
    """Return how long and how fast to train where there is one stage."""
    gradual = settings.zeros == "gradual"
    return Schedule(recipe.epochs, recipe.learning_rate, gradual, settings.seed)


def regularise_channels(
    program: Program, settings: Settings, task: Task, work: Work = NO_WORK, made: Regularised | None = None
) -> Regularised | None:
    """Train a copy of the dense program so that channels shrink to zero, where the user asks for it.

    What a search has `made` of it is kept in `work` like one's own.
    """
    if not settings.regularise:
        return None
    kept = work.find("regularised")
    if kept is not None:
        copy = program.with_own_parameters()
        kept.restore(copy.module)
        fitted, zero = FitResult.from_dict(kept.values["fitted"]), kept.values["zero"]
        return Regularised(copy, settings.regularise, zero, fitted)
    if made is None:
        made = regularise(program, task, settings.regularise, whole_schedule(task.recipe, settings))
    values = {"zero": dict(made.zero), "fitted": made.fitted.to_dict()}
    work.keep("regularised", "the regularised training", values, made.program.module)
    return made


def rotate(program: Program, plan: Plan) -> Program:
    """Return a program that answers as `program` does, in the channels that `plan` speaks of."""
    return turn(loosen(program, plan.loosening), plan)


def turn(loose: Program, plan: Plan) -> Program:
    """Do what is left of `rotate` where the program was loosened."""
    return apply_transforms(loose, find_rotatable(loose).rotatable, plan.transforms)


def curvature_of(
    student: Program, plan: Plan, tables: frozenset[str], task: Task, settings: Settings
) -> Curvature | None:
    """Return what zeros are chosen by where channels were chosen by output error; other scores go with magnitude."""
    if plan.score != OUTPUT_ERROR:
        return None
    lessons = task.lessons(student, student)
    batches = _until(CURVATURE_ANSWERS, islice(lessons.batches(settings.seed), CURVATURE_BATCHES))
    return weight_curvature(lessons.student, tables, batches, task.objective.probe, settings.seed)


def _until(answers: int, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches until a program has answered so often: once for each row, or each place of a history."""
    for request, labels in batches:
        yield request, labels
        answers -= max(len(values) for values in request.values())
        if answers <= 0:
            return


def zero_target(dense: PartSizes, settings: Settings) -> ZeroTarget:
    """Return how many non-zeros each part may keep."""
    return ZeroTarget.of(dense, settings.table_sparsity, settings.rest_sparsity)
