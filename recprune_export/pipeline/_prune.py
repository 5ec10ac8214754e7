"""`prune`: remove fields, rows and channels and set zeros, in stages; each stage is planned, applied, checked and fine-tuned."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from recprune_export.channels.analysis import Analysis
from recprune_export.distributed.collectives import broadcast_module
from recprune_export.distributed.main_process import call_on_main
from recprune_export.distributed.row_shards import SHARD_BYTES
from recprune_export.errors import UsageError
from recprune_export.finetuning._finetune import Schedule, finetune
from recprune_export.finetuning.answer_counts import count_answers_of_row, take_answers
from recprune_export.finetuning.curvature import Curvature, weight_curvature
from recprune_export.finetuning.finetuning_constants import ROUNDED_EPOCHS, ROUNDED_LEARNING_RATE
from recprune_export.finetuning.frozen_tables import freeze_tables
from recprune_export.finetuning.group_lasso import RegularizedProgram, regularize
from recprune_export.finetuning.masks import NonZeroTarget, count_parameters
from recprune_export.finetuning.task import FineTuningConfig, Task
from recprune_export.onnx.export import DEFAULT_SERVING, ServingConfig
from recprune_export.pipeline.planning import (
    make_byte_candidates,
    plan_fields,
    plan_pruning,
    read_calibration_batches,
    share_planned_rows,
)
from recprune_export.pipeline.stage_checkpoints import NO_CHECKPOINTS, StageCheckpoints
from recprune_export.program.program import Program
from recprune_export.program.streamed_tables.stored_copy import store_tables
from recprune_export.program.streamed_tables.streamed_table import find_streamed_tables
from recprune_export.progress import show_status
from recprune_export.pruning.allocation.parameter_counts import ParameterCounter, ParameterCounts
from recprune_export.pruning.allocation.storage_candidates import Candidate
from recprune_export.pruning.apply._apply_plan import apply_plan, tables_left
from recprune_export.pruning.apply.soundness import Soundness, check_soundness
from recprune_export.pruning.fields.field_selection import remove_fields
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.plan import FieldPlan, Plan
from recprune_export.pruning.rare_ids.shared_row_proof import check_rows
from recprune_export.pruning.reconstruction.least_squares import reconstruct_layers
from recprune_export.pruning.rotation._apply_transforms import apply_transforms
from recprune_export.pruning.rotation.eligibility import find_rotatable_groups
from recprune_export.pruning.rotation.projections import insert_projections
from recprune_export.settings import FineTuningSettings, PruningSettings
from recprune_export.training.loop import FitResult

CURVATURE_BATCHES, CURVATURE_ANSWERS = 64, 1 << 16  # whichever comes first


@dataclass(frozen=True)
class PrunedStage:
    """A program that was pruned by a plan and fine-tuned, with the results of both; `shared_row_proof` is the proof of shared rows, if
    any."""

    program: Program
    analysis: Analysis
    plan: Plan
    soundness: Soundness
    fitted: FitResult | None
    shared_row_proof: Soundness | None = None


@dataclass(frozen=True)
class PrunedModel:
    """A program after one or several stages, and the number of non-zeros that it may keep."""

    stages: tuple[PrunedStage, ...]
    target: NonZeroTarget
    regularized: RegularizedProgram | None = None

    @property
    def program(self) -> Program:
        """The program after the last stage."""
        return self.stages[-1].program

    @property
    def plan(self) -> Plan:
        """The plans of all stages."""
        return Plan.from_stages([stage.plan for stage in self.stages])


@dataclass(frozen=True)
class SearchPrefix:
    """The work that does not depend on the operating point, for one seed: regularized training, and the fields to remove.

    `rng_state` is the state of PyTorch's generator afterwards, so that later steps are the same as in a separate run. `candidates` are
    those of plans with a byte limit; None for a sparsity.
    """

    regularized: RegularizedProgram | None
    fields: FieldPlan
    rng_state: Tensor
    candidates: tuple[Candidate, ...] | None = None


def run_search_prefix(
    program: Program,
    pruning: PruningSettings,
    finetuning: FineTuningSettings,
    task: Task,
    *,
    seed: int = 0,
    prefix: SearchPrefix | None = None,
    serving: ServingConfig = DEFAULT_SERVING,
) -> SearchPrefix:
    """Do the work that all trials of a search with the same seed share, except parts in an earlier `prefix`."""
    if prefix is None:
        regularized = regularize_channels(program, finetuning, task, seed=seed)
        fields = plan_fields(regularized.program if regularized else program, pruning.prune_fields, task, seed)
        prefix = SearchPrefix(regularized, fields, torch.get_rng_state())
    if pruning.max_bytes is None or prefix.candidates is not None:
        return prefix
    start = prefix.regularized.program if prefix.regularized else program
    candidates = make_byte_candidates(start, pruning, task, prefix.fields, seed=seed, serving=serving)
    return replace(prefix, candidates=candidates)


def prune(
    program: Program,
    pruning: PruningSettings,
    finetuning: FineTuningSettings,
    task: Task,
    *,
    seed: int = 0,
    plan: Plan | None = None,
    checkpoints: StageCheckpoints = NO_CHECKPOINTS,
    search_prefix: SearchPrefix | None = None,
    serving: ServingConfig = DEFAULT_SERVING,
    projected: Program | None = None,
) -> PrunedModel:
    """Remove fields, rows and channels by a plan, check the result, then set zeros during fine-tuning; `program` is not changed.

    With several `pruning_stages` each stage removes a fraction of the channels and tunes for a fraction of the epochs; zeros are
    set in the last. The teacher is `program` in every stage (gradual pruning with fine-tuning in between: Han et al.
    2015, section 3.4). Finished stages are saved in `checkpoints`, and loaded from there with the same result.
    `search_prefix` is the result of `run_search_prefix` for the same program, rows and settings except the sparsity or the bytes; the
    bytes of a plan are those of a file for `serving`. `projected` is the program for which a `plan` of one stage was made, if it already
    exists.

    Raises `UsageError` if fewer fields can be removed than requested, or if there are no rows on which to count ids; `PruningError` if
    the plan does not fit.
    """
    if plan is not None:
        check_beside_plan(pruning)
        pruning = replace(pruning, pruning_stages=len(plan.stages))
    regularized, fields, candidates = None, None, None
    if search_prefix is not None:
        torch.set_rng_state(search_prefix.rng_state)
        regularized, fields = search_prefix.regularized, search_prefix.fields
        candidates = search_prefix.candidates
    regularized = regularize_channels(program, finetuning, task, checkpoints, regularized, seed=seed)
    sizes = ParameterCounter(program).sizes()
    context = _Context(program, sizes, pruning, finetuning, seed, task, serving, checkpoints, candidates)
    target = make_nonzero_target(context.sizes, pruning)
    start = regularized.program if regularized else program
    stages: list[PrunedStage] = []
    for number in range(1, pruning.pruning_stages + 1):
        stage_plan = plan.stages[number - 1] if plan is not None else None
        stage_target = target if number == pruning.pruning_stages else None
        first_fields = fields if number == 1 else None
        stages.append(_run_stage(context, start, number, stage_plan, first_fields, stage_target, projected))
        start = stages[-1].program
    if stages[-1].plan.storage is not None:
        target = count_all_weights(start, start.analysis.tables)
    return PrunedModel(tuple(stages), target, regularized)


def check_beside_plan(pruning: PruningSettings) -> None:
    """Raise `UsageError` if an option chooses fields or rows that the plan already specifies."""
    if pruning.prune_fields:
        raise UsageError("A plan specifies the removed fields: leave out --prune-fields or --plan.")
    if pruning.prune_rows is not None:
        raise UsageError("A plan specifies the removed rows: leave out --prune-rows or --plan.")


def plan_all_stages(
    program: Program,
    pruning: PruningSettings,
    finetuning: FineTuningSettings,
    task: Task,
    *,
    seed: int = 0,
    serving: ServingConfig = DEFAULT_SERVING,
) -> Plan:
    """Make the plans of all stages; all but the last are applied and tuned, since a plan is made for tuned weights."""
    regularized = regularize_channels(program, finetuning, task, seed=seed)
    start = regularized.program if regularized else program
    context = _Context(program, ParameterCounter(program).sizes(), pruning, finetuning, seed, task, serving)
    plans: list[Plan] = []
    for number in range(1, pruning.pruning_stages):
        stage = _run_stage(context, start, number)
        plans.append(stage.plan)
        start = stage.program
    with show_status("Choosing channels"):
        last = plan_pruning(
            start, pruning.at_stage(pruning.pruning_stages), task, seed=seed, dense=context.sizes, serving=serving
        ).plan
    return Plan.from_stages([*plans, last])


@dataclass(frozen=True)
class _Context:
    """The values that all stages share: the dense program, which is the teacher, its sizes, settings, rows and finished stages.

    `candidates` of plans with a byte limit are for the only stage of such a job.
    """

    dense: Program
    sizes: ParameterCounts
    pruning: PruningSettings
    finetuning: FineTuningSettings
    seed: int
    task: Task
    serving: ServingConfig
    checkpoints: StageCheckpoints = NO_CHECKPOINTS
    candidates: tuple[Candidate, ...] | None = None


@dataclass(frozen=True)
class _CutProgram:
    """The `student` after `plan` is applied, before tuning, its tables, and the analysis of the program that was pruned.

    `frozen` are the tables of a model larger than memory, which tuning does not change.
    """

    student: Program
    analysis: Analysis
    plan: Plan
    tables: frozenset[str]
    soundness: Soundness
    shared_row_proof: Soundness | None
    frozen: frozenset[str] = frozenset()


def _run_stage(
    context: _Context,
    start: Program,
    number: int,
    plan: Plan | None = None,
    fields: FieldPlan | None = None,
    target: NonZeroTarget | None = None,
    projected: Program | None = None,
) -> PrunedStage:
    """Plan, prune and tune `start`, the program after the previous stage; without a `target` no zeros are set.

    `projected` is the form of `start` for which a given `plan` was made, if it already exists.
    """
    pruning, task = context.pruning, context.task
    checkpoint = context.checkpoints.load(f"stage-{number}")
    if checkpoint is not None:
        plan = Plan.from_dict(checkpoint.values["plan"])
    if plan is None:
        with show_status("Choosing channels"):
            planned = plan_pruning(
                start, pruning.at_stage(number), task, seed=context.seed, dense=context.sizes, fields=fields,
                last_stage=pruning.at_stage(pruning.pruning_stages), candidates=context.candidates,
                serving=context.serving,
            )  # fmt: skip
        # The processes of a run may have different processors, which round differently.
        plan = call_on_main(partial(getattr, planned, "plan"))
        cut = _cut(context, start, plan, planned.program, refit=pruning.refit)
        del planned  # its program may have tables that are not shared with the dense model
    else:
        cut = _cut(context, start, plan, projected, refit=pruning.refit and checkpoint is None)
    if checkpoint is not None:
        checkpoint.restore(cut.student.module)
        fitted = None if checkpoint.values["fitted"] is None else FitResult.from_dict(checkpoint.values["fitted"])
    else:
        fitted = _tune(context, number, cut, target)
        values = {"plan": cut.plan.to_dict(), "fitted": None if fitted is None else fitted.to_dict()}
        title = f"pruning and fine-tuning, stage {number} of {pruning.pruning_stages}"
        context.checkpoints.save(f"stage-{number}", title, values, cut.student.module)
    return PrunedStage(cut.student, cut.analysis, cut.plan, cut.soundness, fitted, cut.shared_row_proof)


def _cut(
    context: _Context, start: Program, plan: Plan, projected: Program | None = None, *, refit: bool
) -> _CutProgram:
    """Apply `plan` to `start`, check the result, and refit its layers; `projected` is the form of `start` for which the plan was made.

    Memory: the dense, the rotated and the pruned tables, until the layers are refitted.
    """
    task, seed = context.task, context.seed
    without_fields = remove_fields(start, plan.fields)
    smaller = share_planned_rows(without_fields.program, plan.rows, task, seed)
    shared_row_proof = check_rows(without_fields.program, smaller, plan.rows) if plan.rows else None
    original = _apply_transforms(projected, plan) if projected is not None else rotate_channels(smaller, plan)
    student = apply_plan(original, plan)
    soundness = check_soundness(original, plan, student).combine(without_fields.soundness)
    frozen = frozenset(find_streamed_tables(student.module))
    with show_status("Cutting tables") if frozen else nullcontext():
        student = store_tables(student)
    if refit:
        with show_status("Refitting layers"):
            reconstruct_layers(original, plan, student, read_calibration_batches(task, seed))
    tables = tables_left(original, student)
    return _CutProgram(student, original.analysis, plan, tables, soundness, shared_row_proof, frozen)


def _tune(context: _Context, number: int, cut: _CutProgram, target: NonZeroTarget | None) -> FitResult | None:
    """Tune the student in place."""
    task, seed = context.task, context.seed
    student, tables = freeze_tables(cut.student, cut.frozen), cut.tables - cut.frozen
    epochs = divide_epochs(task.config.epochs, context.pruning.pruning_stages, number)
    schedule = replace(make_schedule(task.config, context.finetuning, seed), epochs=epochs)
    teacher = context.dense.with_copied_graph()
    broadcast_module(student.module, SHARD_BYTES)
    storage = cut.plan.storage
    if storage is not None and cut.frozen:
        raise UsageError(
            "This plan chooses bits for tables that are larger than memory: make the plan with --sparsity."
        )
    if storage is not None:  # zeros would cost quality without saving bytes
        schedule = schedule_rounded(schedule, context.finetuning)
        weights = count_all_weights(student, tables)
        return finetune(student, teacher, task, tables, weights, schedule, bits=storage.bits)
    if target is None:
        target = count_all_weights(student, tables)
    elif cut.frozen:  # the sparsity of tables comes only from removed dimensions
        target = replace(target, tables=count_all_weights(student, tables).tables)
    curvature = estimate_curvature(student, cut.plan, tables, task, seed)
    return finetune(student, teacher, task, tables, target, schedule, curvature)


def count_all_weights(program: Program, tables: frozenset[str]) -> NonZeroTarget:
    """Return the target that sets no zeros."""
    return NonZeroTarget(*count_parameters(program, tables))


def schedule_rounded(schedule: Schedule, finetuning: FineTuningSettings) -> Schedule:
    """Return the schedule for rounded weights without zeros; epochs and learning rate of the user are kept."""
    epochs, rate = schedule.epochs, schedule.learning_rate
    if finetuning.epochs is None:
        epochs = max(epochs, ROUNDED_EPOCHS)
    if finetuning.learning_rate is None:
        rate = max(rate, ROUNDED_LEARNING_RATE)
    return replace(schedule, epochs=epochs, learning_rate=rate, gradual=False)


def divide_epochs(epochs: int, stages: int, stage: int) -> int:
    """Return the epochs of a stage: an equal fraction, at least one, and the remainder in the last stage.

    >>> [divide_epochs(5, 3, stage) for stage in (1, 2, 3)]
    [1, 1, 3]
    """
    if epochs == 0:
        return 0
    fraction = max(1, epochs // stages)
    return max(1, epochs - fraction * (stages - 1)) if stage == stages else fraction


def make_schedule(config: FineTuningConfig, finetuning: FineTuningSettings, seed: int) -> Schedule:
    """Return the schedule of fine-tuning in one stage."""
    return Schedule(config.epochs, config.learning_rate, finetuning.sparsity_schedule == "gradual", seed)


def regularize_channels(
    program: Program,
    finetuning: FineTuningSettings,
    task: Task,
    checkpoints: StageCheckpoints = NO_CHECKPOINTS,
    precomputed: RegularizedProgram | None = None,
    *,
    seed: int = 0,
) -> RegularizedProgram | None:
    """Train a copy of the dense program so that channels shrink to zero; None if the strength is 0.

    A result that a search has `precomputed` is saved in `checkpoints` as well.
    """
    if not finetuning.regularize:
        return None
    checkpoint = checkpoints.load("regularized")
    if checkpoint is not None:
        copy = program.with_copied_parameters()
        checkpoint.restore(copy.module)
        fitted, zero_channels = FitResult.from_dict(checkpoint.values["fitted"]), checkpoint.values["zero"]
        return RegularizedProgram(copy, finetuning.regularize, zero_channels, fitted)
    if precomputed is None:
        precomputed = regularize(program, task, finetuning.regularize, make_schedule(task.config, finetuning, seed))
    values = {"zero": dict(precomputed.zero_channels), "fitted": precomputed.fitted.to_dict()}
    checkpoints.save("regularized", "the regularized training", values, precomputed.program.module)
    return precomputed


def rotate_channels(program: Program, plan: Plan) -> Program:
    """Return a program with the same answers as `program`, in the rotated channels that `plan` refers to."""
    return _apply_transforms(insert_projections(program, plan.projection_plan), plan)


def _apply_transforms(projected: Program, plan: Plan) -> Program:
    return apply_transforms(projected, find_rotatable_groups(projected).rotatable, plan.transforms)


def estimate_curvature(
    student: Program, plan: Plan, tables: frozenset[str], task: Task, seed: int = 0
) -> Curvature | None:
    """Return the curvature that chooses zeros if output error chose channels; None for other scores, which use the magnitude."""
    if plan.score != OUTPUT_ERROR:
        return None
    data = task.distillation_data(student, student)
    of_row = count_answers_of_row(student.signature)
    batches = take_answers(CURVATURE_ANSWERS, islice(data.batches(seed), CURVATURE_BATCHES), of_row, divided=True)
    return weight_curvature(data.student, tables, batches, task.objective.probe, seed)


def make_nonzero_target(dense: ParameterCounts, pruning: PruningSettings) -> NonZeroTarget:
    """Return the number of non-zeros that tables and other layers may keep."""
    return NonZeroTarget.from_sparsity(dense, pruning.table_sparsity, pruning.rest_sparsity)
