"""`prune`: fields, channels and zeros go, in one stage or several; each stage is decided, carried out, proved and tuned."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from recprune_export.channels.analysis import Analysis, analyse
from recprune_export.errors import PruningError, UsageError
from recprune_export.finetuning.finetune import Schedule, finetune
from recprune_export.finetuning.group_lasso import Regularised, regularise
from recprune_export.finetuning.objective import Objective
from recprune_export.finetuning.task import Batch, Recipe, SampledRequests, Task
from recprune_export.finetuning.zeros import ZeroTarget, parameter_counts
from recprune_export.program.program import Program
from recprune_export.pruning.budget import Budget, Way, make_plan
from recprune_export.pruning.field_selection import remove_fields, select_fields
from recprune_export.pruning.plan import NO_FIELDS, FieldPlan, Plan
from recprune_export.pruning.refit import refit
from recprune_export.pruning.rewrite import apply_plan
from recprune_export.pruning.rotation.apply import apply_transforms
from recprune_export.pruning.rotation.legality import find_rotatable
from recprune_export.pruning.rotation.loosen import NOTHING, find_loosening, loosen
from recprune_export.pruning.rows.choose import choose_rows, count_ids
from recprune_export.pruning.rows.lookups import find_row_tables
from recprune_export.pruning.rows.plan import TableRows
from recprune_export.pruning.rows.rewrite import share_rows, tables_of
from recprune_export.pruning.rows.soundness import check_rows
from recprune_export.pruning.scores.inputs import Loss, ScoreInputs
from recprune_export.pruning.scores.registry import rankings_by
from recprune_export.pruning.sizes import PartSizes, SizeModel
from recprune_export.pruning.soundness import Soundness, check_soundness
from recprune_export.settings import Settings
from recprune_export.training.loop import FitResult

CALIBRATION_BATCHES = 16  # for scores
DEFAULT_SCORE = "output-error"


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


def prune(program: Program, settings: Settings, task: Task, plan: Plan | None = None) -> Pruned:
    """Remove fields and channels by a plan, prove the result, then add zeros while tuning. `program` is left as it is.

    With several `steps` that is done as often, each time with a part of the channels and of the epochs; zeros come last.
    The teacher is `program` in every stage (gradual pruning with tuning in between: Han et al. 2015, section 3.4).

    Raises `UsageError` where more fields are to go than can, or nothing tells which ids are rare, `PruningError` where the
    plan does not fit.
    """
    if plan is not None and settings.prune_fields:
        raise UsageError("A plan says itself which fields go: leave out --prune-fields, or the plan.")
    if plan is not None and settings.prune_rows is not None:
        raise UsageError("A plan says itself which rows go: leave out --prune-rows, or the plan.")
    if plan is not None:
        settings = replace(settings, steps=len(plan.stages))
    regularised = regularise_channels(program, settings, task)
    sizes = SizeModel(program, analyse(program)).sizes()
    target = zero_target(sizes, settings)
    start = regularised.program if regularised else program
    stages: list[Stage] = []
    for number in range(1, settings.steps + 1):
        given = plan.stages[number - 1] if plan is not None else None
        stages.append(_carry_out(program, sizes, start, number, settings, task, given, target))
        start = stages[-1].program
    return Pruned(tuple(stages), target, regularised)


def plan_all(program: Program, settings: Settings, task: Task) -> Plan:
    """Make the plans of all stages; all but the last are carried out for that, since a plan is made for tuned weights."""
    regularised = regularise_channels(program, settings, task)
    start = regularised.program if regularised else program
    sizes = SizeModel(program, analyse(program)).sizes()
    plans: list[Plan] = []
    for number in range(1, settings.steps):
        stage = _carry_out(program, sizes, start, number, settings, task)
        plans.append(stage.plan)
        start = stage.program
    last = decide(start, settings.at_stage(settings.steps), task, dense=sizes)
    return Plan.of_stages([*plans, last])


def _carry_out(
    dense: Program,
    sizes: PartSizes,
    start: Program,
    number: int,
    settings: Settings,
    task: Task,
    plan: Plan | None = None,
    target: ZeroTarget | None = None,
) -> Stage:
    """Decide, prune and tune what the stage before left, `start`; `sizes` are those of `dense`, `target` is for the last stage."""
    plan = plan or decide(start, settings.at_stage(number), task, dense=sizes)
    rest = remove_fields(start, plan.fields)
    smaller = share(rest.program, plan.rows, settings, task)
    shared = check_rows(rest.program, smaller, plan.rows) if plan.rows else None
    original, analysis = rotate(smaller, plan)
    student = apply_plan(original, analysis, plan)
    soundness = check_soundness(original, analysis, plan, student).together_with(rest.soundness)
    if settings.refit:
        refit(original, analysis, plan, student, calibration(task, settings.seed))
    tables = analyse(student).tables
    if target is None or number < settings.steps:
        target = ZeroTarget(*parameter_counts(student, tables))
    fitted = finetune(student, dense.with_own_graph(), task, tables, target, schedule_of(task.recipe, settings, number))
    return Stage(student, analysis, plan, soundness, fitted, shared)


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
    return Schedule(
        recipe.epochs, recipe.learning_rate, gradual, settings.seed, warm_up=settings.warm_up, ema=settings.ema
    )


def regularise_channels(program: Program, settings: Settings, task: Task) -> Regularised | None:
    """Train a copy of the dense program so that channels shrink to zero, where the user asks for it."""
    if not settings.regularise:
        return None
    return regularise(program, analyse(program), task, settings.regularise, whole_schedule(task.recipe, settings))


def rotate(program: Program, plan: Plan) -> tuple[Program, Analysis]:
    """Return a program that answers as `program` does, in the channels that `plan` speaks of, and its analysis."""
    loose = loosen(program, plan.loosening)
    analysis = analyse(loose)
    return apply_transforms(loose, analysis, find_rotatable(loose, analysis).rotatable, plan.transforms), analysis


def analysed(program: Program) -> Analysis:
    """Return the analysis. Raises `PruningError` where there is nothing to prune."""
    analysis = analyse(program)
    if not analysis.groups:
        reasons = "; ".join(dict.fromkeys(axis.reason.text for axis in analysis.frozen)) or "it has no parameters"
        raise PruningError(f"No channel of this model can be removed: {reasons}. `recprune-export inspect` says where.")
    return analysis


def decide(program: Program, settings: Settings, task: Task, *, dense: PartSizes | None = None) -> Plan:
    """Choose the fields and the rows that go, score the channels of the rest, and make a plan within the budget.

    Sparsity is a part of the sizes of `dense`, if not of those of `program` itself.

    Raises `PruningError` where there is nothing to prune, `UsageError` where more fields are to go than can.
    """
    dense = dense or SizeModel(program, analysed(program)).sizes()
    fields = decide_fields(program, settings, task)
    program = remove_fields(program, fields).program
    rows = decide_rows(program, settings, task)
    program = share(program, rows, settings, task)
    analysis = analysed(program)
    name = DEFAULT_SCORE if settings.score == "auto" else settings.score
    by_error = name == DEFAULT_SCORE
    loosening = find_loosening(program, analysis) if by_error else NOTHING
    if loosening:
        program = loosen(program, loosening)
        analysis = analyse(program)
    inputs = score_inputs(program, analysis, settings, task)
    budget = Budget(settings.table_sparsity, settings.rest_sparsity, settings.structured_share, settings.round_to)
    way: Way = "loss" if by_error else "uniform"
    plan = make_plan(program, analysis, rankings_by(name, inputs), budget, name, way, dense=dense)
    return replace(plan, loosening=loosening, fields=fields, rows=rows)


def decide_fields(program: Program, settings: Settings, task: Task) -> FieldPlan:
    """Choose the fields without which the loss rises least: against the labels, or else the program's own answers."""
    if not settings.prune_fields:
        return NO_FIELDS
    objective, batches = task.objective, calibration(task, settings.seed)
    if objective.label_of and batches[0][1]:
        return select_fields(program, settings.prune_fields, batches, objective.supervised)
    with torch.no_grad():
        answered = [(request, program(request)) for request, _ in batches]
    return select_fields(program, settings.prune_fields, answered, objective.distillation)


def decide_rows(program: Program, settings: Settings, task: Task) -> tuple[TableRows, ...]:
    """Choose the ids that share a row, where that is asked for.

    Raises `UsageError` where nothing tells which ids are rare, `PruningError` where every table needs its rows.
    """
    if settings.prune_rows is None:
        return ()
    if isinstance(task, SampledRequests):
        raise UsageError("--prune-rows has to see which ids are rare: give --data.")
    tables, refused = find_row_tables(program)
    if not tables:
        reasons = (
            "; ".join(f"'{r.table}': {r.reason}" for r in refused) or "no table is looked up by ids of the request"
        )
        raise PruningError(f"--prune-rows finds no table that can do with fewer rows: {reasons}.")
    return choose_rows(
        tables.values(), count_ids(program, tables.values(), _requests(task, settings)), settings.prune_rows
    )


def rest_of(program: Program, plan: Plan, settings: Settings, task: Task) -> Program:
    """Return what is left without the fields and rows that `plan` gives up, in whose channels it speaks."""
    return share(remove_fields(program, plan.fields).program, plan.rows, settings, task)


def share(program: Program, rows: Sequence[TableRows], settings: Settings, task: Task) -> Program:
    """Return `program` with the shared rows of the plan, weighted by the training rows; drawn requests weigh nothing."""
    if not rows or isinstance(task, SampledRequests):
        return share_rows(program, rows, {})
    tables = tables_of(program, rows)
    counts = count_ids(program, [tables[part.table] for part in rows], _requests(task, settings))
    return share_rows(program, rows, counts)


def _requests(task: Task, settings: Settings) -> Iterator[Mapping[str, torch.Tensor]]:
    return (request for request, _ in task.training_batches(settings.seed))


def loosened_inputs(program: Program, settings: Settings, task: Task) -> ScoreInputs:
    """Return what scores look at for a plan by output error, in which layers may be inserted first."""
    analysis = analysed(program)
    loosening = find_loosening(program, analysis)
    if loosening:
        program = loosen(program, loosening)
        analysis = analyse(program)
    return score_inputs(program, analysis, settings, task)


def score_inputs(program: Program, analysis: Analysis, settings: Settings, task: Task) -> ScoreInputs:
    """Gather what scores look at: calibration data, and how answers are judged."""
    objective = task.objective
    return ScoreInputs(
        program,
        analysis,
        calibration(task, settings.seed),
        _loss(objective),
        objective.distillation,
        objective.probe,
        settings.seed,
    )


def zero_target(dense: PartSizes, settings: Settings) -> ZeroTarget:
    """Return how many non-zeros each part may keep."""
    return ZeroTarget(
        tables=int((1.0 - settings.table_sparsity) * dense.tables),
        rest=int((1.0 - settings.rest_sparsity) * dense.rest),
    )


def calibration(task: Task, seed: int) -> list[Batch]:
    """Return the first batches of the training rows."""
    batches = task.training_batches(seed)
    return [batch for batch, _ in zip(batches, range(CALIBRATION_BATCHES), strict=False)]


def _loss(objective: Objective) -> Loss:
    """The loss for scores: labels where there are any, else the size of the answer, which a zeroed channel changes."""

    def loss(response: Mapping[str, torch.Tensor], labels: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if labels and objective.label_of:
            return objective.supervised(response, labels)
        return torch.stack([response[name].square().mean() for name in objective.meanings]).sum()

    return loss
