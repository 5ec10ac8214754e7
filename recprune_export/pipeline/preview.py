"""`preview_program`: plan what the main job would remove, on the same rows, without applying the plan."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from recprune_export.channels.analysis import Analysis
from recprune_export.channels.groups import FrozenAxis
from recprune_export.codec import OMIT_DEFAULT, ToDictMixin
from recprune_export.distributed.main_process import call_on_main
from recprune_export.finetuning.task import Task
from recprune_export.pipeline._prune import check_beside_plan, make_nonzero_target
from recprune_export.pipeline.export_models import make_serving_config
from recprune_export.pipeline.planning import plan_pruning, remove_fields_and_rows
from recprune_export.program.program import Program
from recprune_export.progress import show_status
from recprune_export.pruning.allocation.parameter_counts import ParameterCounter, ParameterCounts
from recprune_export.pruning.plan import Plan, PlannedProgram
from recprune_export.pruning.rotation.projections import insert_projections
from recprune_export.settings import Settings


@dataclass(frozen=True)
class GroupPreview(ToDictMixin):
    """The width of a group before and after; `kept` is None if a search decides it."""

    group: str
    label: str
    kind: str
    width: int
    kept: int | None


@dataclass(frozen=True)
class Preview(ToDictMixin):
    """The channels that a job would remove, and the values that are not known before it runs (`unknown`, in sentences).

    `dense` and `pruned` count parameters; `zeroed` of the latter are set to zero. Bytes are those of the weights, or of the whole file
    with `--max-bytes`. `table_rows` has the numbers of rows before and after, by table. Values that a search decides are None.
    """

    widths: tuple[GroupPreview, ...]
    frozen: tuple[FrozenAxis, ...]
    dense: ParameterCounts
    dense_bytes: int
    pruned: ParameterCounts | None = None
    zeroed: int | None = None
    pruned_bytes: int | None = None
    removed_fields: tuple[str, ...] = ()
    table_rows: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), metadata=OMIT_DEFAULT)
    target: str = ""


def preview_program(program: Program, settings: Settings, task: Task, plan: Plan | None = None) -> Preview:
    """Plan the first stage of the job without applying it; with a `plan`, find out what this plan removes.

    The plan is the one that the job makes, from the same rows, scores and seed. If a search decides the operating point, there is no
    plan, and later widths are None. Raises `PruningError` if nothing can be pruned or the plan does not fit, and the errors of
    `plan_pruning`.
    """
    counter = ParameterCounter(program)
    dense = counter.sizes()
    dense_bytes = sum(p.nbytes for p in program.parameters().values())
    unknown = tuple(_describe_unknown(settings, plan))
    if plan is None and _is_searched(settings):
        groups = _describe_groups(program.analysis, {})
        return Preview(groups, program.analysis.frozen, dense, dense_bytes, unknown=unknown)
    if plan is not None:
        check_beside_plan(settings.pruning)
        planned = _open_plan(program, plan.stages[0], task, settings.seed)
    else:
        pruning = settings.pruning
        with show_status("Choosing channels"):
            made = plan_pruning(
                program, pruning.at_stage(1), task, seed=settings.seed, dense=dense,
                last_stage=pruning.at_stage(pruning.pruning_stages), serving=make_serving_config(settings),
            )  # fmt: skip
        planned = PlannedProgram(call_on_main(partial(getattr, made, "plan")), made.program)
    analysis, chosen = planned.program.analysis, planned.plan
    pruned = ParameterCounter(planned.program).sizes(chosen.removed(analysis))
    target = make_nonzero_target(dense, settings.pruning)
    zeroed = max(pruned.tables - target.tables, 0) + max(pruned.rest - target.rest, 0)
    weights = round(dense_bytes * (pruned.tables + pruned.rest) / max(dense.tables + dense.rest, 1))
    return Preview(
        widths=_describe_groups(analysis, {group.group: len(group.keep) for group in chosen.groups}),
        frozen=analysis.frozen,
        dense=dense,
        dense_bytes=dense_bytes,
        pruned=pruned,
        zeroed=0 if chosen.storage is not None else zeroed,
        pruned_bytes=weights if chosen.storage is None else chosen.storage.point.bytes,
        removed_fields=chosen.fields.removed,
        table_rows={row.table: (row.rows, row.retained_count + 1) for row in chosen.rows},
        unknown=unknown,
    )


def _open_plan(program: Program, plan: Plan, task: Task, seed: int) -> PlannedProgram:
    smaller = remove_fields_and_rows(program, plan, task, seed)
    return PlannedProgram(plan, insert_projections(smaller, plan.projection_plan))


def _describe_groups(analysis: Analysis, kept: Mapping[str, int]) -> tuple[GroupPreview, ...]:
    return tuple(GroupPreview(g.name, g.label, g.kind, g.width, kept.get(g.name)) for g in analysis.groups)


def _is_searched(settings: Settings) -> bool:
    return settings.search.max_drop is not None or settings.search.has_speed_target


def _describe_unknown(settings: Settings, plan: Plan | None) -> Iterator[str]:
    """Yield a sentence on each value that the job decides or measures later."""
    search, stages = settings.search, settings.pruning.pruning_stages if plan is None else len(plan.stages)
    if plan is None and _is_searched(settings):
        options: Sequence[tuple[str, object]] = (
            ("--max-drop", search.max_drop),
            ("--target-speedup", search.target_speedup),
            ("--target-latency", search.target_latency),
        )
        names = " and ".join(name for name, value in options if value is not None)
        yield f"{names} tries several plans and measures them: the widths are known after that."
    elif settings.finetuning.regularize and plan is None:
        yield "--regularize trains the model before the plan is made: the widths may differ from these."
    if stages > 1:
        yield f"These are the widths of stage 1 of {stages}: later stages are planned after fine-tuning."
    if settings.pruning.max_bytes is not None and plan is None and not _is_searched(settings):
        yield "If the file is slower than the model in PyTorch, the job plans again with less predicted time."
    if settings.quantization.quantize != "none":
        yield f"--quantize {settings.quantization.quantize} chooses bits by measurements: the file has fewer bytes."
    yield "Quality after fine-tuning, and latency, are measured by the job."
