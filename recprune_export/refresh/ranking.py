"""Whether the score would still keep what the plan keeps."""

from recprune_export.channels.analysis import analyse
from recprune_export.errors import PruningError, UsageError
from recprune_export.finetuning.task import Task
from recprune_export.program.program import Program
from recprune_export.pruning.plan import Plan
from recprune_export.pruning.rotation.loosen import loosen
from recprune_export.pruning.standing import Standing, shortfall, standings
from recprune_export.refresh.findings import Finding
from recprune_export.settings import Settings
from recprune_export.stages import rest_of, score_inputs

MEASURE = "ranking"
MOST = 0.05  # of what matters, that the plan may lose beyond the best choice of the same widths


def judge_ranking(program: Program, plan: Plan, settings: Settings, task: Task) -> tuple[Finding, tuple[Standing, ...]]:
    """Fail where the plan keeps less of what matters on the new rows than the best choice, by more than `MOST` of it all.

    Of several stages the first is judged: what it left was tuned before the next plan was made, and is not kept.
    """
    if settings.regularise:
        text = "The plan was made after a training with --regularise, whose weights are not kept."
        return Finding(MEASURE, None, text), ()
    try:
        plan, *later = plan.stages
        loose = loosen(rest_of(program, plan, settings, task), plan.loosening)
        found = standings(plan, score_inputs(loose, analyse(loose), settings, task))
    except (PruningError, UsageError) as error:
        return Finding(MEASURE, None, str(error)), ()
    missing = shortfall(found, plan.score)
    chosen = [s for s in found if s.same is not None]
    again = sum(s.same or 0 for s in chosen) / max(sum(s.kept for s in chosen), 1)
    words = [f"{again:.0%} of the channels that are kept would be kept again"] if chosen else []
    words += ["the kept subspaces are compared by what they hold"] if len(chosen) < len(found) else []
    words += ["of several stages this is the first"] if later else []
    holds = missing <= MOST
    text = (
        f"By the score '{plan.score}' the plan holds {missing:.1%} less of what matters on the new rows than the best choice of the "
        f"same widths; {'' if holds else 'only '}{MOST:.0%} is allowed"
    )
    return Finding(MEASURE, holds, "; ".join([text, *words]) + "."), found
