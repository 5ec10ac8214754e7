"""Whether the score would still keep what the plan keeps."""

from recprune_export.errors import PruningError, UsageError
from recprune_export.finetuning.task import Task
from recprune_export.pipeline.planning import make_score_inputs, remove_fields_and_rows
from recprune_export.program.program import Program
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.plan import Plan
from recprune_export.pruning.rotation.projections import insert_projections
from recprune_export.refresh.plan_regret import GroupRegret, compute_mean_relative_regret, compute_regrets, sum_regret
from recprune_export.refresh.verdicts import DriftFinding
from recprune_export.settings import Settings

MEASURE = "ranking"
# That the plan may lose beyond the best choice of the same widths: of the expected loss, in nats for logits and rankings, where
# .01 was some .004 of AUC (docs/decisions/refresh-verdict.md), and for other scores of all that a group holds.
MOST_LOSS, MOST_SHARE = 0.002, 0.05
LATER = (
    "of {} stages this is the first alone: a later one cannot be judged, for its plan was made for weights tuned in between, "
    "which the bundle does not hold"
)


def judge_plan(
    program: Program, plan: Plan, settings: Settings, task: Task
) -> tuple[DriftFinding, tuple[GroupRegret, ...]]:
    """Fail where the plan loses more on the new rows than the best choice of the same widths, by more than is allowed.

    Of several stages the first is judged, and that is said: the plan of a later one speaks of the program that the stage
    before left, with its tuned weights; a bundle holds those of the last stage alone, without the channels that went.
    """
    if settings.regularise:
        text = "The plan was made after a training with --regularise, whose weights are not kept."
        return DriftFinding(MEASURE, None, text), ()
    try:
        plan, *later = plan.stages
        loose = insert_projections(remove_fields_and_rows(program, plan, settings, task), plan.projection_plan)
        found = compute_regrets(plan, make_score_inputs(loose, settings, task))
    except (PruningError, UsageError) as error:
        return DriftFinding(MEASURE, None, str(error)), ()
    chosen = [s for s in found if s.overlap is not None]
    again = sum(s.overlap or 0 for s in chosen) / max(sum(s.pruned_width for s in chosen), 1)
    words = [f"{again:.0%} of the channels that are kept would be kept again"] if chosen else []
    words += ["the kept subspaces are compared by what they hold"] if len(chosen) < len(found) else []
    words += [LATER.format(len(later) + 1)] if later else []
    extra, most, unit = compute_mean_relative_regret(found), MOST_SHARE, " of what a group holds"
    if plan.score == OUTPUT_ERROR:
        extra, most, unit = sum_regret(found), MOST_LOSS, " of the expected loss"
    holds = extra <= most
    text = (
        f"By the score '{plan.score}' the plan loses {extra:.2g}{unit} more on the new rows than the best choice of the same widths; "
        f"{'' if holds else 'only '}{most:g} is allowed"
    )
    return DriftFinding(MEASURE, holds, "; ".join([text, *words]) + "."), found
