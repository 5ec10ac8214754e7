"""Judge whether the score would keep the channels of a plan on new rows."""

from recprune_export.errors import PruningError, UsageError
from recprune_export.finetuning.task import Task
from recprune_export.pipeline.planning import make_score_inputs, remove_fields_and_rows
from recprune_export.program.program import Program
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.plan import Plan
from recprune_export.pruning.rotation.projections import insert_projections
from recprune_export.refresh.plan_regret import GroupRegret, compute_mean_relative_regret, compute_regrets, sum_regret
from recprune_export.refresh.verdicts import DriftFinding

MEASURE = "ranking"
# That the plan may lose beyond the best choice of the same widths: of the expected loss, in nats for logits and rankings, where
# .01 was some .004 of AUC (docs/decisions/refresh-verdict.md), and for other scores of all that a group holds.
MOST_LOSS, MOST_SHARE = 0.002, 0.05
LATER = (
    "of {} stages this is the first alone: a later one cannot be judged, for its plan was made for weights tuned in between, "
    "which the bundle does not hold"
)


def judge_plan(
    program: Program, plan: Plan, task: Task, *, regularized: bool = False, seed: int = 0
) -> tuple[DriftFinding, tuple[GroupRegret, ...]]:
    """Fail where the plan loses more on the new rows than the best choice of the same widths, by more than is allowed.

    Of several stages only the first is judged, as the finding says: the plan of a later one is made for the program after
    the stage before, with its tuned weights; a bundle holds those of the last stage alone, without the removed channels.
    A plan for `regularized` weights cannot be judged, since a bundle does not hold them.
    """
    if regularized:
        text = "The plan was made after a training with --regularize, whose weights are not kept."
        return DriftFinding(MEASURE, None, text), ()
    try:
        plan, *later = plan.stages
        projected = insert_projections(remove_fields_and_rows(program, plan, task, seed), plan.projection_plan)
        regrets = compute_regrets(plan, make_score_inputs(projected, task, seed))
    except (PruningError, UsageError) as error:
        return DriftFinding(MEASURE, None, str(error)), ()
    chosen = [s for s in regrets if s.overlap is not None]
    again = sum(s.overlap or 0 for s in chosen) / max(sum(s.pruned_width for s in chosen), 1)
    words = [f"{again:.0%} of the channels that are kept would be kept again"] if chosen else []
    words += ["the kept subspaces are compared by what they hold"] if len(chosen) < len(regrets) else []
    words += [LATER.format(len(later) + 1)] if later else []
    extra, most, unit = compute_mean_relative_regret(regrets), MOST_SHARE, " of what a group holds"
    if plan.score == OUTPUT_ERROR:
        extra, most, unit = sum_regret(regrets), MOST_LOSS, " of the expected loss"
    holds = extra <= most
    text = (
        f"By the score '{plan.score}' the plan loses {extra:.2g}{unit} more on the new rows than the best choice of the same widths; "
        f"{'' if holds else 'only '}{most:g} is allowed"
    )
    return DriftFinding(MEASURE, holds, "; ".join([text, *words]) + "."), regrets
