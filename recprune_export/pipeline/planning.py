"""`plan_pruning`: which fields, rows and channels go, from scores on calibration data and what was asked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from recprune_export.channels.analysis import Analysis
from recprune_export.data.batch import Batch
from recprune_export.errors import PruningError, UsageError
from recprune_export.finetuning.objective import Objective
from recprune_export.finetuning.task import SampledRequests, Task
from recprune_export.pipeline.structured_fraction import (
    StructuredFractionTrial,
    choose_structured_fractions,
    restrict_to_prunable,
)
from recprune_export.program.program import Program
from recprune_export.pruning.allocation.budget import AllocationStrategy, Budget, make_plan
from recprune_export.pruning.allocation.parameter_counts import ParameterCounter, ParameterCounts
from recprune_export.pruning.fields.field_selection import remove_fields, select_fields
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.importance.scores.registry import rank_channels
from recprune_export.pruning.importance.scores.score_inputs import LossFunction, ScoreInputs
from recprune_export.pruning.plan import NO_FIELDS, FieldPlan, Plan
from recprune_export.pruning.rare_ids.choose_rows import choose_rows, count_ids
from recprune_export.pruning.rare_ids.find_tables import find_prunable_tables
from recprune_export.pruning.rare_ids.row_plan import RowPlan
from recprune_export.pruning.rare_ids.share_rows import find_planned_tables, share_rows
from recprune_export.pruning.rotation.projections import (
    NO_PROJECTIONS,
    ProjectedProgram,
    find_projections,
    project_tables,
)
from recprune_export.pruning.rotation.table_projections import find_per_table_projections, insert_per_table_projections
from recprune_export.settings import Settings

CALIBRATION_BATCHES = 16  # for scores
# Of the expected loss, by output error: .001 is some .0003 of AUC (docs/decisions/structured-share.md).
NEGLIGIBLE_LOSS = 1e-3
PER_TABLE_MAX_LOSS_RATIO = 0.5


def analyze_prunable(program: Program, *, without_projections: bool = True) -> Analysis:
    """Return the analysis. Raises `PruningError` where there is nothing to prune: `without_projections`, or even if loosened."""
    analysis = program.analysis
    if not analysis.groups and (without_projections or not find_projections(program)):
        shapes = [p.shape for p in program.parameters().values()]
        if shapes and all(shape.numel() == 1 or shape[1:] == (1,) for shape in shapes):
            raise PruningError(
                "No channel of this model can be removed: it is linear, with one number for each id, so that there is nothing to "
                "narrow."
            )
        reasons = "; ".join(dict.fromkeys(axis.reason.text for axis in analysis.frozen)) or "it has no parameters"
        raise PruningError(f"No channel of this model can be removed: {reasons}. `recprune-export inspect` says where.")
    return analysis


def plan_pruning(
    program: Program,
    settings: Settings,
    task: Task,
    *,
    dense: ParameterCounts | None = None,
    fields: FieldPlan | None = None,
    final_settings: Settings | None = None,
) -> Plan:
    """Return the plan of `decide_with_projections`, which see."""
    return decide_with_projections(program, settings, task, dense=dense, fields=fields, last=final_settings).plan


@dataclass(frozen=True)
class Decision:
    """A plan, and the program in whose channels it speaks: without the fields and rows that go, loosened, not yet rotated."""

    plan: Plan
    loose: Program


def decide_with_projections(
    program: Program,
    settings: Settings,
    task: Task,
    *,
    dense: ParameterCounts | None = None,
    fields: FieldPlan | None = None,
    last: Settings | None = None,
) -> Decision:
    """Choose the fields and the rows that go, score the channels of the rest, and make a plan within the budget.

    Sparsity is a part of the sizes of `dense`, if not of those of `program` itself. `fields` are those that
    `plan_fields` chose, where that is known. `last` are the settings of the last stage, where this is one before it.

    Raises `PruningError` where there is nothing to prune, `UsageError` where more fields are to go than can.
    """
    projects = settings.score in ("auto", OUTPUT_ERROR)
    dense = dense or ParameterCounter(program).sizes()
    fields = plan_fields(program, settings, task) if fields is None else fields
    program = remove_fields(program, fields).program
    rows = plan_rows(program, settings, task)
    program = share_planned_rows(program, rows, settings, task)
    analyze_prunable(program, without_projections=not projects)
    if projects:
        decision = _plan_of_least_loss(program, settings, task, dense, last or settings)
    else:
        plan = _scored(ProjectedProgram(NO_PROJECTIONS, program), settings, task, dense).plan
        decision = Decision(plan, program)
    return replace(decision, plan=replace(decision.plan, fields=fields, rows=rows))


@dataclass(frozen=True)
class _ScoredPlan:
    """A program after a loosening, the ranking of its channels, and a plan from that with what its score says is lost."""

    program: Program
    rankings: Mapping[str, Ranking]
    plan: Plan
    loss: float


def _plan_of_least_loss(
    program: Program, settings: Settings, task: Task, dense: ParameterCounts, last: Settings
) -> Decision:
    """Plan with long tables in spaces of their own where that loses far less: their matrices cost time in serving.

    Then with as much removal as loses least together with the zeros. These come in the last stage, so every stage asks
    what is best for the sparsity of the last one, and goes its part of that way: what an earlier stage takes away for a
    sparsity at which removal costs nothing yet, no later one can give back for zeros.
    """
    loose = project_tables(program)
    chosen = _scored(loose, settings, task, dense)
    if chosen.loss >= NEGLIGIBLE_LOSS:
        spaces = find_per_table_projections(loose.program)
        if spaces:
            apart = ProjectedProgram(
                replace(loose.projection_plan, per_table_projections=spaces),
                insert_per_table_projections(loose.program, spaces),
            )
            own = _scored(apart, settings, task, dense)
            chosen = own if own.loss < PER_TABLE_MAX_LOSS_RATIO * chosen.loss else chosen
    decision = Decision(chosen.plan, chosen.program)
    if settings.structured_share is not None:
        return decision
    stated = make_budget(settings)
    tried = restrict_to_prunable(make_budget(last), chosen.program)
    if not (tried.tables or tried.rest):
        return decision
    batches = read_calibration_batches(task, settings.seed)
    trial = StructuredFractionTrial(chosen.program, chosen.rankings, dense, task.objective, batches, settings)
    found = choose_structured_fractions(trial.loss, tried, NEGLIGIBLE_LOSS)
    budget = replace(
        stated,
        table_structured_fraction=found.table_structured_fraction,
        rest_structured_fraction=found.rest_structured_fraction,
    )
    if budget == stated:
        return decision
    plan = make_plan(chosen.program, chosen.rankings, budget, OUTPUT_ERROR, dense=dense)
    return replace(decision, plan=replace(plan, projection_plan=chosen.plan.projection_plan))


def _scored(loose: ProjectedProgram, settings: Settings, task: Task, dense: ParameterCounts) -> _ScoredPlan:
    name = OUTPUT_ERROR if settings.score == "auto" else settings.score
    program = loose.program
    rankings = rank_channels(name, make_score_inputs(program, settings, task))
    way: AllocationStrategy = "loss" if name == OUTPUT_ERROR else "uniform"
    plan = make_plan(program, rankings, make_budget(settings), name, way, dense=dense)
    lost = sum(rankings[part.group].losses[len(part.keep)] for part in plan.groups)
    return _ScoredPlan(program, rankings, replace(plan, projection_plan=loose.projection_plan), lost)


def make_budget(settings: Settings) -> Budget:
    """Return what was asked, in the terms of a plan."""
    shares: dict[str, float] = {}
    if settings.structured_share is not None:
        shares = {"table_share": settings.structured_share, "rest_share": settings.structured_share}
    whole = settings.table_sparsity == 0.0  # asked for, not a trial of the rest alone, in which tables may be narrowed
    return Budget(
        settings.table_sparsity, settings.rest_sparsity, round_to=settings.round_to, keep_tables=whole, **shares
    )


def plan_fields(program: Program, settings: Settings, task: Task) -> FieldPlan:
    """Choose the fields without which the loss rises least: against the labels, or else the program's own answers."""
    if not settings.prune_fields:
        return NO_FIELDS
    objective, batches = task.objective, read_calibration_batches(task, settings.seed)
    if objective.output_labels and batches[0][1]:
        return select_fields(program, settings.prune_fields, batches, objective.supervised)
    with torch.no_grad():
        answered = [(request, program(request)) for request, _ in batches]
    return select_fields(program, settings.prune_fields, answered, objective.distillation)


def plan_rows(program: Program, settings: Settings, task: Task) -> tuple[RowPlan, ...]:
    """Choose the ids that share a row, where that is asked for.

    Raises `UsageError` where nothing tells which ids are rare, `PruningError` where every table needs its rows.
    """
    if settings.prune_rows is None:
        return ()
    if isinstance(task, SampledRequests):
        raise UsageError("--prune-rows has to see which ids are rare: give --data.")
    tables, refused = find_prunable_tables(program)
    if not tables:
        reasons = (
            "; ".join(f"'{r.table}': {r.reason}" for r in refused) or "no table is looked up by ids of the request"
        )
        raise PruningError(f"--prune-rows finds no table that can do with fewer rows: {reasons}.")
    return choose_rows(
        tables.values(), count_ids(program, tables.values(), _requests(task, settings)), settings.prune_rows
    )


def remove_fields_and_rows(program: Program, plan: Plan, settings: Settings, task: Task) -> Program:
    """Return what is left without the fields and rows that `plan` gives up, in whose channels it speaks."""
    return share_planned_rows(remove_fields(program, plan.fields).program, plan.rows, settings, task)


def share_planned_rows(program: Program, rows: Sequence[RowPlan], settings: Settings, task: Task) -> Program:
    """Return `program` with the shared rows of the plan, weighted by the training rows; drawn requests weigh nothing."""
    if not rows or isinstance(task, SampledRequests):
        return share_rows(program, rows, {})
    tables = find_planned_tables(program, rows)
    counts = count_ids(program, [tables[part.table] for part in rows], _requests(task, settings))
    return share_rows(program, rows, counts)


def _requests(task: Task, settings: Settings) -> Iterator[Mapping[str, torch.Tensor]]:
    return (request for request, _ in task.training_batches(settings.seed))


def make_projected_score_inputs(program: Program, settings: Settings, task: Task) -> ScoreInputs:
    """Return what scores look at for a plan by output error, in which layers may be inserted first."""
    analyze_prunable(program, without_projections=False)
    return make_score_inputs(project_tables(program).program, settings, task)


def make_score_inputs(program: Program, settings: Settings, task: Task) -> ScoreInputs:
    """Gather what scores look at: calibration data, and how answers are judged."""
    objective = task.objective
    return ScoreInputs(
        program,
        read_calibration_batches(task, settings.seed),
        _loss(objective),
        objective.distillation,
        objective.probe,
        settings.seed,
    )


def read_calibration_batches(task: Task, seed: int) -> list[Batch]:
    """Return the first batches of the training rows."""
    batches = task.training_batches(seed)
    return [batch for batch, _ in zip(batches, range(CALIBRATION_BATCHES), strict=False)]


def _loss(objective: Objective) -> LossFunction:
    """The loss for scores: labels where there are any, else the size of the answer, which a zeroed channel changes."""

    def loss(response: Mapping[str, torch.Tensor], labels: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if labels and objective.output_labels:
            return objective.supervised(response, labels)
        return torch.stack([response[name].square().mean() for name in objective.output_kinds]).sum()

    return loss
