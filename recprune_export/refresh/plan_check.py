"""Judge whether the score would keep the channels of a plan on new rows."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf, sqrt

import numpy as np

from recprune_export.data.batch import Batch
from recprune_export.errors import PruningError, UsageError
from recprune_export.evidence import Estimate, Verdict, judge_at_most, t_quantile
from recprune_export.finetuning.task import Task
from recprune_export.number_formats import format_estimate
from recprune_export.pipeline.planning import make_score_inputs, remove_fields_and_rows
from recprune_export.program.program import Program
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.plan import Plan
from recprune_export.pruning.rotation.projections import insert_projections
from recprune_export.refresh.plan_regret import GroupRegret, compute_mean_relative_regret, compute_regrets, sum_regret
from recprune_export.refresh.verdicts import DriftFinding

MEASURE = "ranking"
# Allowed loss of the plan in excess of the best plan of the same widths: of the expected loss, in nats for logits and
# rankings, where .01 was about .004 of AUC (docs/decisions/refresh-verdict.md), and for other scores as a fraction of
# the total of a group.
MAX_LOSS, MAX_SHARE = 0.002, 0.05
FOLDS = 4  # disjoint parts of the rows, whose variation gives the interval
LATER = (
    "only the first of {} stages is judged: the plans of later stages were made for weights tuned in between, which the bundle "
    "does not contain"
)


def judge_plan(
    program: Program, plan: Plan, task: Task, *, regularized: bool = False, seed: int = 0
) -> tuple[DriftFinding, tuple[GroupRegret, ...]]:
    """Judge the claim that the plan loses little more on the new rows than the best plan of the same widths.

    Of several stages only the first is judged, and the finding notes this: the plan of a later stage is made for the weights tuned in the
    previous stage, but a bundle contains only the weights of the last stage, without the removed channels. A plan for `regularized`
    weights cannot be judged, since a bundle does not contain these weights.
    """
    if regularized:
        text = "The plan was made after training with --regularize, whose weights are not saved."
        return DriftFinding(MEASURE, Verdict.SKIPPED, text), ()
    try:
        plan, *later = plan.stages
        projected = insert_projections(remove_fields_and_rows(program, plan, task, seed), plan.projection_plan)
        inputs = make_score_inputs(projected, task, seed)
        regrets = compute_regrets(plan, inputs)
        folds = [
            measure_regret(plan, compute_regrets(plan, replace(inputs, batches=batches)))
            for batches in divide_rows(inputs.batches, FOLDS)
        ]
    except (PruningError, UsageError) as error:
        return DriftFinding(MEASURE, Verdict.SKIPPED, str(error)), ()
    extra = estimate_by_folds(measure_regret(plan, regrets), folds)
    limit, unit = MAX_SHARE, " of the score of a group"
    if plan.score == OUTPUT_ERROR:
        limit, unit = MAX_LOSS, " of the expected loss"
    verdict = judge_at_most(extra, limit)
    allowed = {Verdict.HOLDS: f"{limit:g} is allowed", Verdict.FAILS: f"only {limit:g} is allowed"}.get(
        verdict, f"these rows are inconclusive for the limit of {limit:g}"
    )
    text = (
        f"According to the score '{plan.score}', the plan loses {format_estimate(extra, '.2g')}{unit} more on "
        f"the new rows than the best plan of the same widths; {allowed}"
    )
    words = _describe_overlap(regrets) + ([LATER.format(len(later) + 1)] if later else [])
    return DriftFinding(MEASURE, verdict, "; ".join([text, *words]) + ".", extra, limit), regrets


def measure_regret(plan: Plan, regrets: Sequence[GroupRegret]) -> float:
    """Return the regret of all groups together, in the unit of the plan's score."""
    return sum_regret(regrets) if plan.score == OUTPUT_ERROR else compute_mean_relative_regret(regrets)


def divide_rows(batches: Sequence[Batch], folds: int) -> list[list[Batch]]:
    """Divide the rows of batches into `folds` disjoint parts; none if a batch has fewer rows."""
    if any(len(tensor) < folds for request, _ in batches for tensor in request.values()):
        return []
    return [
        [tuple({name: t[fold::folds] for name, t in tensors.items()} for tensors in batch) for batch in batches]  # type: ignore[misc]
        for fold in range(folds)
    ]


def estimate_by_folds(whole: float, folds: Sequence[float]) -> Estimate:
    """Return a non-negative figure of all rows, with an interval from its variation over disjoint parts of the rows.

    The mean of K independent figures has their deviation divided by √K, and the t distribution of K - 1 degrees.
    """
    count = len(folds)
    if count < 2:
        return Estimate(whole, 0.0, inf)
    half = t_quantile(0.975, count - 1) * float(np.std(folds, ddof=1)) / sqrt(count)
    return Estimate(whole, max(whole - half, 0.0), whole + half)


def _describe_overlap(regrets: Sequence[GroupRegret]) -> list[str]:
    chosen = [s for s in regrets if s.overlap is not None]
    again = sum(s.overlap or 0 for s in chosen) / max(sum(s.pruned_width for s in chosen), 1)
    words = [f"{again:.0%} of the kept channels would be kept again"] if chosen else []
    return words + (["kept subspaces are compared by their predicted loss"] if len(chosen) < len(regrets) else [])
