"""Feature selection: choice of the fields to remove, and their removal from a program."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from recprune_export.channels.analysis import Analysis, analyze
from recprune_export.channels.groups import FIELD_GROUP, Channel
from recprune_export.data.batch import Batch
from recprune_export.errors import PruningError, UsageError
from recprune_export.program.program import Program
from recprune_export.pruning.apply._apply_plan import apply_plan
from recprune_export.pruning.apply.soundness import Soundness, check_soundness
from recprune_export.pruning.fields.field_importance import field_importance
from recprune_export.pruning.importance.scores.score_inputs import LossFunction
from recprune_export.pruning.plan import FieldPlan, GroupPlan, Plan

INSPECT_HINT = (
    "`recprune-export inspect MODEL --fields` lists the fields that can be removed, and the reasons for the others"
)


@dataclass(frozen=True)
class FieldRemoval:
    """A program without the removed fields, and the proof; None if no field was removed."""

    program: Program
    soundness: Soundness | None = None


def select_fields(program: Program, count: int, batches: Sequence[Batch], loss: LossFunction) -> FieldPlan:
    """Choose the `count` fields without which `loss` rises least.

    Fields are selected one by one in the order of their importance; a field that cannot be removed together with the
    selected ones is skipped.

    Raises `UsageError` if fewer fields can be removed.
    """
    program = with_fields(program)
    channels = field_channels(program.analysis)
    importance = field_importance(program, channels, batches, loss)
    ranked = [channel for _, channel in sorted(zip(importance, channels, strict=True), key=lambda pair: pair[0])]
    selected: tuple[str, ...] = ()
    for channel in ranked:
        candidates = (*selected, *(field.name for field in channel.fields))
        if (
            len(candidates) <= count
            and explain_field_refusal(with_fields(program, candidates).analysis, candidates) is None
        ):
            selected = candidates
    if len(selected) < count:
        fields = program.analysis.fields
        known = len(fields.ordered) if fields else 0
        raise UsageError(
            f"--prune-fields {count} is more than possible: of the {known} fields of this model, {len(selected)} "
            f"can be removed together; {INSPECT_HINT}."
        )
    return FieldPlan(
        selected, {f.name: value for channel, value in zip(channels, importance, strict=True) for f in channel.fields}
    )


def remove_fields(program: Program, fields: FieldPlan) -> FieldRemoval:
    """Return a program without the removed fields, with its soundness check; `program` itself where there are none.

    Raises `PruningError` if they cannot be removed.
    """
    if not fields.removed:
        return FieldRemoval(program)
    program = with_fields(program, fields.removed)
    reason = explain_field_refusal(program.analysis, fields.removed)
    if reason is not None:
        raise PruningError(f"{', '.join(fields.removed)} cannot be removed from this model: {reason}; {INSPECT_HINT}.")
    plan = make_field_plan(program.analysis, fields.removed)
    pruned = apply_plan(program, plan)
    return FieldRemoval(pruned, check_soundness(program, plan, pruned))


def with_fields(program: Program, together: Collection[str] = ()) -> Program:
    """Return the same program with whole fields among its channels, those named in `together` as one channel."""
    return program.with_analysis(analyze(program, fields=True, together=together))


def field_channels(analysis: Analysis) -> tuple[Channel, ...]:
    """Return the channels that represent fields."""
    return next((group.channels for group in analysis.groups if group.kind == "field"), ())


def explain_field_refusal(analysis: Analysis, names: Collection[str]) -> str | None:
    """Return the reason for which fields, analyzed together, cannot be removed; None if they can."""
    known = {field.name for field in analysis.fields.ordered} if analysis.fields else set()
    unknown = sorted(set(names) - known)
    if unknown:
        return f"it has no field '{unknown[0]}', only {', '.join(sorted(known))}"
    frozen = next((f.reason for f in analysis.frozen_fields if f.field.name in names), None)
    if frozen is not None:
        return frozen.text + (f" ({frozen.source})" if frozen.source else "")
    more = {f.name for channel in field_channels(analysis) for f in channel.fields if _has(channel, names)} - set(names)
    return f"{', '.join(sorted(more))} would have to be removed as well" if more else None


def make_field_plan(analysis: Analysis, names: Collection[str]) -> Plan:
    """Return the plan that removes only fields."""
    channels = field_channels(analysis)
    keep = tuple(position for position, channel in enumerate(channels) if not _has(channel, names))
    return Plan("fields", (GroupPlan(FIELD_GROUP, "field", len(channels), keep),))


def _has(channel: Channel, names: Collection[str]) -> bool:
    return any(field.name in names for field in channel.fields)
