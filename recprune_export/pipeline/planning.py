"""`plan_pruning`: choose the fields, rows and channels to remove, by scores on calibration data and a budget."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

import torch

from recprune_export.channels.analysis import Analysis
from recprune_export.channels.walk import RETURNED
from recprune_export.column_names import list_names
from recprune_export.data.batch import Batch
from recprune_export.errors import ModelError, PruningError, UsageError
from recprune_export.finetuning.objective import Objective
from recprune_export.finetuning.task import SampledRequests, Task
from recprune_export.onnx.export import DEFAULT_SERVING, ServingConfig
from recprune_export.pipeline.byte_budget import plan_within_bytes, resolve_byte_limit
from recprune_export.pipeline.structured_fraction import (
    StructuredFractionTrial,
    choose_structured_fractions,
    restrict_to_prunable,
)
from recprune_export.program.program import Program
from recprune_export.pruning.allocation.budget import AllocationStrategy, Budget, make_plan
from recprune_export.pruning.allocation.parameter_counts import ParameterCounter, ParameterCounts
from recprune_export.pruning.allocation.storage_candidates import TUNED, UNTUNED, Candidate, make_candidates
from recprune_export.pruning.fields.field_selection import remove_fields, select_fields
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.importance.scores.registry import rank_channels
from recprune_export.pruning.importance.scores.score_inputs import LossFunction, ScoreInputs
from recprune_export.pruning.plan import NO_FIELDS, FieldPlan, Plan, PlannedProgram
from recprune_export.pruning.rare_ids._choose_rows import choose_rows, count_ids
from recprune_export.pruning.rare_ids._share_rows import find_planned_tables, share_rows
from recprune_export.pruning.rare_ids.find_tables import find_prunable_tables
from recprune_export.pruning.rare_ids.row_plan import RowPlan
from recprune_export.pruning.rotation.projections import (
    NO_PROJECTIONS,
    ProjectedProgram,
    find_projections,
    project_tables,
)
from recprune_export.pruning.rotation.table_projections import (
    find_equal_groups,
    find_per_table_projections,
    insert_per_table_projections,
)
from recprune_export.settings import PruningSettings
from recprune_export.validation.latency.speedup import choose_batch

CALIBRATION_BATCHES = 16  # for scores
# Of the expected loss, by output error: .001 is some .0003 of AUC (docs/decisions/structured-share.md).
NEGLIGIBLE_LOSS = 1e-3
PER_TABLE_MAX_LOSS_RATIO = 0.5


def analyze_prunable(program: Program, *, without_projections: bool = True) -> Analysis:
    """Return the analysis. Raises `PruningError` if nothing can be pruned, `without_projections` or even with them."""
    analysis = program.analysis
    if not analysis.groups and (without_projections or not find_projections(program)):
        shapes = [p.shape for p in program.parameters().values()]
        if shapes and all(shape.numel() == 1 or shape[1:] == (1,) for shape in shapes):
            raise PruningError(
                "No channel of this model can be removed: it is linear, with one number per id, so no width "
                "can be reduced."
            )
        reasons = dict.fromkeys(axis.reason.text for axis in analysis.frozen)
        raise PruningError(
            f"No channel of this model can be removed: {'; '.join(reasons) or 'it has no parameters'}."
            f"{_advise_fewer_outputs(program) if RETURNED in reasons else ''} See `recprune-export inspect` for details."
        )
    return analysis


def _advise_fewer_outputs(program: Program) -> str:
    """Return a sentence that names the outputs, of which those that return embeddings may be left out."""
    names = [output.name for output in program.signature.outputs]
    return f" It returns {list_names(names)}: --outputs serves the scores alone." if len(names) > 1 else ""


def plan_pruning(
    program: Program,
    pruning: PruningSettings,
    task: Task,
    *,
    seed: int = 0,
    dense: ParameterCounts | None = None,
    fields: FieldPlan | None = None,
    last_stage: PruningSettings | None = None,
    candidates: Sequence[Candidate] | None = None,
    serving: ServingConfig = DEFAULT_SERVING,
) -> PlannedProgram:
    """Choose fields and rows to remove, score the remaining channels, and make a plan within the budget.

    With `pruning.max_bytes` widths and bits are chosen together (`plan_within_bytes`), for a file that is served under the conditions in
    `serving`; `candidates` are those of an earlier `make_byte_candidates`, with the same rows, fields and seed.

    Sparsity is a fraction of the sizes of `dense`, by default those of `program`. `fields` are those of an earlier
    `plan_fields`. `last_stage` are the settings of the last stage, if this is an earlier one.

    Raises `PruningError` if nothing can be pruned, `UsageError` if fewer fields can be removed than requested, or if no plan is small
    enough or fast enough.
    """
    projects = pruning.score == OUTPUT_ERROR
    max_bytes = None if pruning.byte_limit is None else resolve_byte_limit(program, pruning.byte_limit)
    dense = dense or ParameterCounter(program).sizes()
    fields = plan_fields(program, pruning.prune_fields, task, seed) if fields is None else fields
    program = remove_fields(program, fields).program
    rows = plan_rows(program, pruning.prune_rows, task, seed)
    program = share_planned_rows(program, rows, task, seed)
    if max_bytes is None:
        analyze_prunable(program, without_projections=not projects)
    if max_bytes is not None:
        if candidates is None:
            candidates = _make_candidates(program, pruning, task, seed, serving)
        request = read_calibration_batches(task, seed)[0][0]
        planned = plan_within_bytes(candidates, request, max_bytes, serving, pruning.max_microseconds)
    elif projects:
        planned = _plan_with_least_loss(program, pruning, task, seed, dense, last_stage or pruning)
    else:
        unprojected = ProjectedProgram(NO_PROJECTIONS, program)
        inputs = make_score_inputs(program, task, seed)
        planned = PlannedProgram(_score_and_plan(unprojected, pruning, inputs, dense).plan, program)
    return replace(planned, plan=replace(planned.plan, fields=fields, rows=rows))


def make_byte_candidates(
    program: Program,
    pruning: PruningSettings,
    task: Task,
    fields: FieldPlan,
    *,
    seed: int = 0,
    serving: ServingConfig = DEFAULT_SERVING,
) -> tuple[Candidate, ...]:
    """Return the candidates for all plans of `program` with a byte limit, without `fields` and the rows to remove.

    Times are predicted for the batch size of the headline among those of `serving`. Raises `PruningError` if nothing can be pruned or
    stored in fewer bits.
    """
    program = remove_fields(program, fields).program
    program = share_planned_rows(program, plan_rows(program, pruning.prune_rows, task, seed), task, seed)
    return _make_candidates(program, pruning, task, seed, serving)


def _make_candidates(
    program: Program, pruning: PruningSettings, task: Task, seed: int, serving: ServingConfig
) -> tuple[Candidate, ...]:
    """Return the candidates; if the model will be tuned, losses that tuning recovers count less.

    Raises `ModelError` for weights in half or double precision, for which there is no form with fewer bits, and `PruningError` if nothing
    can be pruned or stored in fewer bits.
    """
    for name, parameter in program.parameters().items():
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            raise ModelError(
                f"--max-bytes chooses the bits of float32 weights, and '{name}' is {str(parameter.dtype).removeprefix('torch.')}: "
                "convert the model with model.float()."
            )
    remaining = TUNED if task.config.epochs > 0 else UNTUNED
    inputs, rows = make_score_inputs(program, task, seed), int(choose_batch(map(str, serving.batches)))
    candidates = tuple(make_candidates(program, inputs, pruning.width_multiple, remaining, rows))
    if not any(candidate.choices.can_choose for candidate in candidates):
        analyze_prunable(program, without_projections=False)
    return candidates


@dataclass(frozen=True)
class _ScoredPlan:
    """A program with projections, the ranking of its channels, and a plan by it with the loss that its score predicts."""

    program: Program
    rankings: Mapping[str, Ranking]
    plan: Plan
    loss: float


def _plan_with_least_loss(
    program: Program,
    pruning: PruningSettings,
    task: Task,
    seed: int,
    dense: ParameterCounts,
    last_stage: PruningSettings,
) -> PlannedProgram:
    """Plan with a projection per long table if that loses far less, since these matrices cost time in serving.

    Then choose the structured fraction that loses least together with the zeros. Zeros are set in the last stage, so every stage chooses
    the fraction that is best for the sparsity of the last stage: an earlier stage may remove channels because this costs nothing at its
    sparsity, and a later stage cannot restore them in exchange for zeros.
    """
    projected, inputs = project_tables(program), make_score_inputs(program, task, seed)
    chosen = _score_and_plan(projected, pruning, inputs, dense)
    if chosen.loss >= NEGLIGIBLE_LOSS:
        projections = find_per_table_projections(projected.program)
        if projections:
            per_table = ProjectedProgram(
                replace(projected.projection_plan, per_table_projections=projections),
                insert_per_table_projections(projected.program, projections),
            )
            equal = find_equal_groups(chosen.program, per_table.program)
            computed = {name: ranking for name, ranking in chosen.rankings.items() if name in equal}
            candidate = _score_and_plan(per_table, pruning, replace(inputs, computed=computed), dense)
            chosen = candidate if candidate.loss < PER_TABLE_MAX_LOSS_RATIO * chosen.loss else chosen
    planned = PlannedProgram(chosen.plan, chosen.program)
    if pruning.structured_fraction is not None:
        return planned
    default = make_budget(pruning)
    final = restrict_to_prunable(make_budget(last_stage), chosen.program)
    if not (final.tables or final.rest):
        return planned
    trial = StructuredFractionTrial(
        chosen.program, chosen.rankings, dense, task.objective, inputs.batches, refit=pruning.refit, seed=seed
    )
    best = choose_structured_fractions(trial.loss, final, NEGLIGIBLE_LOSS)
    budget = replace(
        default,
        table_structured_fraction=best.table_structured_fraction,
        rest_structured_fraction=best.rest_structured_fraction,
    )
    if budget == default:
        return planned
    plan = make_plan(chosen.program, chosen.rankings, budget, OUTPUT_ERROR, dense=dense)
    return replace(planned, plan=replace(plan, projection_plan=chosen.plan.projection_plan))


def _score_and_plan(
    projected: ProjectedProgram, pruning: PruningSettings, inputs: ScoreInputs, dense: ParameterCounts
) -> _ScoredPlan:
    score, program = pruning.score, projected.program
    rankings = rank_channels(score, replace(inputs, program=program))
    strategy: AllocationStrategy = "loss" if score == OUTPUT_ERROR else "uniform"
    plan = make_plan(program, rankings, make_budget(pruning), score, strategy, dense=dense)
    loss = sum(rankings[group.group].losses[len(group.keep)] for group in plan.groups)
    return _ScoredPlan(program, rankings, replace(plan, projection_plan=projected.projection_plan), loss)


def make_budget(pruning: PruningSettings) -> Budget:
    """Return the limits of a plan according to the settings."""
    fractions: dict[str, float] = {}
    if pruning.structured_fraction is not None:
        fractions = dict.fromkeys(
            ("table_structured_fraction", "rest_structured_fraction"), pruning.structured_fraction
        )
    # Tables are not pruned if the user requests this, but a trial of only other layers may narrow them.
    keep_tables = pruning.table_sparsity == 0.0
    return Budget(
        pruning.table_sparsity,
        pruning.rest_sparsity,
        width_multiple=pruning.width_multiple,
        keep_tables=keep_tables,
        **fractions,
    )


def plan_fields(program: Program, count: int, task: Task, seed: int = 0) -> FieldPlan:
    """Choose `count` fields without which the loss rises least, against the labels or else the outputs of `program`."""
    if not count:
        return NO_FIELDS
    objective, batches = task.objective, read_calibration_batches(task, seed)
    if objective.output_labels and batches[0][1]:
        return select_fields(program, count, batches, objective.supervised)
    with torch.no_grad():
        answered = [(request, program(request)) for request, _ in batches]
    return select_fields(program, count, answered, objective.distillation)


def plan_rows(
    program: Program, fraction: float | Literal["auto"] | None, task: Task, seed: int = 0
) -> tuple[RowPlan, ...]:
    """Choose the ids that share a row: a `fraction` of all rows, or none for None.

    Raises `UsageError` if there are no rows on which to count ids, `PruningError` if no table can share rows.
    """
    if fraction is None:
        return ()
    if isinstance(task, SampledRequests):
        raise UsageError("--prune-rows requires rows to determine rare ids: give --data.")
    tables, refused = find_prunable_tables(program)
    if not tables:
        reasons = (
            "; ".join(f"'{r.table}': {r.reason}" for r in refused) or "no table is looked up by ids of the request"
        )
        raise PruningError(f"--prune-rows found no table whose rows can be reduced: {reasons}.")
    counts = count_ids(program, tables.values(), _read_requests(task, seed))
    return choose_rows(tables.values(), counts, fraction)


def remove_fields_and_rows(program: Program, plan: Plan, task: Task, seed: int = 0) -> Program:
    """Return `program` without the fields and rows that `plan` removes."""
    return share_planned_rows(remove_fields(program, plan.fields).program, plan.rows, task, seed)


def share_planned_rows(program: Program, rows: Sequence[RowPlan], task: Task, seed: int = 0) -> Program:
    """Return `program` with the shared rows of the plan, weighted by the ids of training rows; sampled requests have no weight."""
    if not rows or isinstance(task, SampledRequests):
        return share_rows(program, rows, {})
    tables = find_planned_tables(program, rows)
    counts = count_ids(program, [tables[row_plan.table] for row_plan in rows], _read_requests(task, seed))
    return share_rows(program, rows, counts)


def _read_requests(task: Task, seed: int) -> Iterator[Mapping[str, torch.Tensor]]:
    return (request for request, _ in task.training_batches(seed, divided=True))


def make_projected_score_inputs(program: Program, task: Task, seed: int = 0) -> ScoreInputs:
    """Return the inputs of scores for a plan by output error, which inserts projections first."""
    analyze_prunable(program, without_projections=False)
    return make_score_inputs(project_tables(program).program, task, seed)


def make_score_inputs(program: Program, task: Task, seed: int = 0) -> ScoreInputs:
    """Gather the inputs of scores: the program, calibration batches, and losses of its outputs."""
    objective = task.objective
    return ScoreInputs(
        program,
        read_calibration_batches(task, seed),
        _make_score_loss(objective),
        objective.distillation,
        objective.probe,
        seed,
    )


def read_calibration_batches(task: Task, seed: int) -> list[Batch]:
    """Return the first batches of the training rows."""
    batches = task.training_batches(seed)
    return list(islice(batches, CALIBRATION_BATCHES))


def _make_score_loss(objective: Objective) -> LossFunction:
    """Return the loss for scores: the loss against labels, or without labels the size of the answer, which a zeroed channel changes."""

    def loss(response: Mapping[str, torch.Tensor], labels: Mapping[str, torch.Tensor]) -> torch.Tensor:
        if labels and objective.output_labels:
            return objective.supervised(response, labels)
        return torch.stack([response[name].square().mean() for name in objective.output_kinds]).sum()

    return loss
