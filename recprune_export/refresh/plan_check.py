"""Whether the score would still keep what the plan keeps."""

from recprune_export.errors import PruningError, UsageError
from recprune_export.finetuning.task import Task
from recprune_export.pipeline.planning import rest_of, score_inputs
from recprune_export.program.program import Program
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.plan import Plan
from recprune_export.pruning.rotation.projections import loosen
from recprune_export.refresh.plan_regret import Standing, extra_loss, extra_share, standings
from recprune_export.refresh.verdicts import Finding
from recprune_export.settings import Settings

MEASURE = "ranking"
# That the plan may lose beyond the best choice of the same widths: of the expected loss, in nats for logits and rankings, where
# .01 was some .004 of AUC (docs/decisions/refresh-verdict.md), and for other scores of all that a group holds.
MOST_LOSS, MOST_SHARE = 0.002, 0.05
LATER = (
    "of {} stages this is the first alone: a later one cannot be judged, for its plan was made for weights tuned in between, "
    "which the bundle does not hold"
)


def judge_ranking(program: Program, plan: Plan, settings: Settings, task: Task) -> tuple[Finding, tuple[Standing, ...]]:
    """Fail where the plan loses more on the new rows than the best choice of the same widths, by more than is allowed.

    Of several stages the first is judged, and that is said: the plan of a later one speaks of the program that the stage
    before left, with its tuned weights; a bundle holds those of the last stage alone, without the channels that went.
    """
    if settings.regularise:
        text = "The plan was made after a training with --regularise, whose weights are not kept."
        return Finding(MEASURE, None, text), ()
    try:
        plan, *later = plan.stages
        loose = loosen(rest_of(program, plan, settings, task), plan.loosening)
        found = standings(plan, score_inputs(loose, settings, task))
    except (PruningError, UsageError) as error:
        return Finding(MEASURE, None, str(error)), ()
    chosen = [s for s in found if s.same is not None]
    again = sum(s.same or 0 for s in chosen) / max(sum(s.kept for s in chosen), 1)
    words = [f"{again:.0%} of the channels that are kept would be kept again"] if chosen else []
    words += ["the kept subspaces are compared by what they hold"] if len(chosen) < len(found) else []
    words += [LATER.format(len(later) + 1)] if later else []
    extra, most, unit = extra_share(found), MOST_SHARE, " of what a group holds"
    if plan.score == OUTPUT_ERROR:
        extra, most, unit = extra_loss(found), MOST_LOSS, " of the expected loss"
    holds = extra <= most
    text = (
        f"By the score '{plan.score}' the plan loses {extra:.2g}{unit} more on the new rows than the best choice of the same widths; "
        f"{'' if holds else 'only '}{most:g} is allowed"
    )
    return Finding(MEASURE, holds, "; ".join([text, *words]) + "."), found
