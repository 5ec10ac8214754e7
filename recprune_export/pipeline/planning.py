"""`decide`: which fields, rows and channels go, from scores on calibration data and what was asked."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from recprune_export.channels.analysis import Analysis
from recprune_export.errors import PruningError, UsageError
from recprune_export.finetuning.objective import Objective
from recprune_export.finetuning.task import Batch, SampledRequests, Task
from recprune_export.pipeline.structured_fraction import ShareTrial, choose_shares, open_to_choice
from recprune_export.program.program import Program
from recprune_export.pruning.allocation.budget import Budget, Way, make_plan
from recprune_export.pruning.allocation.parameter_counts import PartSizes, SizeModel
from recprune_export.pruning.fields.field_selection import remove_fields, select_fields
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.importance.scores.registry import rankings_by
from recprune_export.pruning.importance.scores.score_inputs import Loss, ScoreInputs
from recprune_export.pruning.plan import NO_FIELDS, FieldPlan, Plan
from recprune_export.pruning.rare_ids.choose_rows import choose_rows, count_ids
from recprune_export.pruning.rare_ids.find_tables import find_row_tables
from recprune_export.pruning.rare_ids.row_plan import TableRows
from recprune_export.pruning.rare_ids.share_rows import share_rows, tables_of
from recprune_export.pruning.rotation.projections import NOTHING, Loosened, find_cuts, loosen_tables
from recprune_export.pruning.rotation.table_projections import find_spaces, insert_spaces
from recprune_export.settings import Settings

CALIBRATION_BATCHES = 16  # for scores
# Of the expected loss, by output error: .001 is some .0003 of AUC (docs/decisions/structured-share.md).
MATTERS = 1e-3
SPACES_PAY = 0.5


def analysed(program: Program, *, as_it_is: bool = True) -> Analysis:
    """Return the analysis. Raises `PruningError` where there is nothing to prune: `as_it_is`, or even if loosened."""
    analysis = program.analysis
    if not analysis.groups and (as_it_is or not find_cuts(program)):
        shapes = [p.shape for p in program.parameters().values()]
        if shapes and all(shape.numel() == 1 or shape[1:] == (1,) for shape in shapes):
            raise PruningError(
                "No channel of this model can be removed: it is linear, with one number for each id, so that there is nothing to "
                "narrow."
            )
        reasons = "; ".join(dict.fromkeys(axis.reason.text for axis in analysis.frozen)) or "it has no parameters"
        raise PruningError(f"No channel of this model can be removed: {reasons}. `recprune-export inspect` says where.")
    return analysis


def decide(
    program: Program,
    settings: Settings,
    task: Task,
    *,
    dense: PartSizes | None = None,
    fields: FieldPlan | None = None,
    last: Settings | None = None,
) -> Plan:
    """Return the plan of `decide_and_loosen`, which see."""
    return decide_and_loosen(program, settings, task, dense=dense, fields=fields, last=last).plan


@dataclass(frozen=True)
class Decision:
    """A plan, and the program in whose channels it speaks: without the fields and rows that go, loosened, not yet rotated."""

    plan: Plan
    loose: Program


def decide_and_loosen(
    program: Program,
    settings: Settings,
    task: Task,
    *,
    dense: PartSizes | None = None,
    fields: FieldPlan | None = None,
    last: Settings | None = None,
) -> Decision:
    """Choose the fields and the rows that go, score the channels of the rest, and make a plan within the budget.

    Sparsity is a part of the sizes of `dense`, if not of those of `program` itself. `fields` are those that
    `decide_fields` chose, where that is known. `last` are the settings of the last stage, where this is one before it.

    Raises `PruningError` where there is nothing to prune, `UsageError` where more fields are to go than can.
    """
    loosens = settings.score in ("auto", OUTPUT_ERROR)
    dense = dense or SizeModel(program).sizes()
    fields = decide_fields(program, settings, task) if fields is None else fields
    program = remove_fields(program, fields).program
    rows = decide_rows(program, settings, task)
    program = share(program, rows, settings, task)
    analysed(program, as_it_is=not loosens)
    if loosens:
        decision = _plan_of_least_loss(program, settings, task, dense, last or settings)
    else:
        plan = _scored(Loosened(NOTHING, program), settings, task, dense).plan
        decision = Decision(plan, program)
    return replace(decision, plan=replace(decision.plan, fields=fields, rows=rows))


@dataclass(frozen=True)
class _Scored:
    """A program after a loosening, the ranking of its channels, and a plan from that with what its score says is lost."""

    program: Program
    rankings: Mapping[str, Ranking]
    plan: Plan
    lost: float


def _plan_of_least_loss(program: Program, settings: Settings, task: Task, dense: PartSizes, last: Settings) -> Decision:
    """Plan with long tables in spaces of their own where that loses far less: their matrices cost time in serving.

    Then with as much removal as loses least together with the zeros. These come in the last stage, so every stage asks
    what is best for the sparsity of the last one, and goes its part of that way: what an earlier stage takes away for a
    sparsity at which removal costs nothing yet, no later one can give back for zeros.
    """
    loose = loosen_tables(program)
    chosen = _scored(loose, settings, task, dense)
    if chosen.lost >= MATTERS:
        spaces = find_spaces(loose.program)
        if spaces:
            apart = Loosened(replace(loose.loosening, spaces=spaces), insert_spaces(loose.program, spaces))
            own = _scored(apart, settings, task, dense)
            chosen = own if own.lost < SPACES_PAY * chosen.lost else chosen
    decision = Decision(chosen.plan, chosen.program)
    if settings.structured_share is not None:
        return decision
    stated = budget_of(settings)
    tried = open_to_choice(budget_of(last), chosen.program)
    if not (tried.tables or tried.rest):
        return decision
    batches = calibration(task, settings.seed)
    trial = ShareTrial(chosen.program, chosen.rankings, dense, task.objective, batches, settings)
    found = choose_shares(trial.loss, tried, MATTERS)
    budget = replace(stated, table_share=found.table_share, rest_share=found.rest_share)
    if budget == stated:
        return decision
    plan = make_plan(chosen.program, chosen.rankings, budget, OUTPUT_ERROR, dense=dense)
    return replace(decision, plan=replace(plan, loosening=chosen.plan.loosening))


def _scored(loose: Loosened, settings: Settings, task: Task, dense: PartSizes) -> _Scored:
    name = OUTPUT_ERROR if settings.score == "auto" else settings.score
    program = loose.program
    rankings = rankings_by(name, score_inputs(program, settings, task))
    way: Way = "loss" if name == OUTPUT_ERROR else "uniform"
    plan = make_plan(program, rankings, budget_of(settings), name, way, dense=dense)
    lost = sum(rankings[part.group].losses[len(part.keep)] for part in plan.groups)
    return _Scored(program, rankings, replace(plan, loosening=loose.loosening), lost)


def budget_of(settings: Settings) -> Budget:
    """Return what was asked, in the terms of a plan."""
    shares: dict[str, float] = {}
    if settings.structured_share is not None:
        shares = {"table_share": settings.structured_share, "rest_share": settings.structured_share}
    whole = settings.table_sparsity == 0.0  # asked for, not a trial of the rest alone, in which tables may be narrowed
    return Budget(
        settings.table_sparsity, settings.rest_sparsity, round_to=settings.round_to, keep_tables=whole, **shares
    )


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
    analysed(program, as_it_is=False)
    return score_inputs(loosen_tables(program).program, settings, task)


def score_inputs(program: Program, settings: Settings, task: Task) -> ScoreInputs:
    """Gather what scores look at: calibration data, and how answers are judged."""
    objective = task.objective
    return ScoreInputs(
        program,
        calibration(task, settings.seed),
        _loss(objective),
        objective.distillation,
        objective.probe,
        settings.seed,
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
