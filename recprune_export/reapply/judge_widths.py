"""Judge whether other widths with the same number of parameters would lose less for new weights."""

from collections.abc import Mapping, Sequence

from recprune_export.evidence import Estimate, Verdict, judge_at_most
from recprune_export.number_formats import format_estimate
from recprune_export.pruning.allocation.allocate import ParameterLimit, allocate_widths
from recprune_export.pruning.allocation.budget import Budget
from recprune_export.pruning.allocation.group_plans import make_group_plan
from recprune_export.pruning.allocation.parameter_counts import ParameterCounter
from recprune_export.pruning.importance.output_error import gather_group_statistics
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.importance.scores.score_inputs import ScoreInputs
from recprune_export.pruning.plan import Plan
from recprune_export.refresh.plan_check import FOLDS, MAX_LOSS, divide_rows, estimate_by_folds
from recprune_export.refresh.plan_regret import compute_loss
from recprune_export.refresh.verdicts import DriftFinding

MEASURE = "widths"
NAMED = 3  # the number of groups in the sentence


def judge_widths(plan: Plan, rankings: Mapping[str, Ranking], inputs: ScoreInputs, budget: Budget) -> DriftFinding:
    """Judge the claim that, for new weights, a plan of one stage loses little more than the best widths with as many parameters.

    The `rankings` are those of the new weights, for the program in `inputs`, which has the projections of the plan. `budget` states how
    widths are rounded. The interval follows from the variation over parts of the rows.
    """
    if plan.score != OUTPUT_ERROR:
        text = f"By the score '{plan.score}' all groups of a kind keep the same fraction, whatever the weights."
        return DriftFinding(MEASURE, Verdict.SKIPPED, text)
    if plan.storage is not None:
        text = "Widths and bits were chosen together for the bytes of the file; whether others would lose less is not computed."
        return DriftFinding(MEASURE, Verdict.SKIPPED, text)
    widths = {group.group: len(group.keep) for group in plan.groups}
    others = _allocate_as_many(plan, rankings, inputs, budget)
    changed = [name for name, width in widths.items() if others[name] != width]
    extra = Estimate(0.0, 0.0, 0.0)
    if changed:
        losses = {name: rankings[name].losses for name in changed}
        regret = sum(of[widths[name]] - of[others[name]] for name, of in losses.items())
        extra = estimate_by_folds(max(regret, 0.0), _measure_on_folds(changed, widths, others, rankings, inputs))
    verdict = judge_at_most(extra, MAX_LOSS)
    return DriftFinding(MEASURE, verdict, _describe(extra, verdict, changed, widths, others), extra, MAX_LOSS)


def _allocate_as_many(
    plan: Plan, rankings: Mapping[str, Ranking], inputs: ScoreInputs, budget: Budget
) -> Mapping[str, int]:
    """Return the widths of least loss with as many parameters as the plan, separately in tables and in other layers."""
    counter = ParameterCounter(inputs.program)
    sizes = counter.sizes(plan.removed(inputs.program.analysis))
    limits = {"embedding": ParameterLimit(sizes.tables, sizes.tables), "hidden": ParameterLimit(sizes.rest, sizes.rest)}
    return allocate_widths(inputs.program, counter, rankings, limits, budget.width, keep_tables=budget.keep_tables)


def _measure_on_folds(
    changed: Sequence[str],
    widths: Mapping[str, int],
    others: Mapping[str, int],
    rankings: Mapping[str, Ranking],
    inputs: ScoreInputs,
) -> list[float]:
    """Return, for each part of the rows, the loss of the channels of `widths` minus that of the channels of `others`."""
    groups = {name: inputs.program.analysis.group(name) for name in changed}
    pairs = {
        name: [make_group_plan(group, rankings[name], of[name]) for of in (widths, others)]
        for name, group in groups.items()
    }
    folds = []
    for batches in divide_rows(inputs.batches, FOLDS):
        skipped = rankings.keys() - groups.keys()
        statistics = gather_group_statistics(inputs.program, batches, inputs.probe, inputs.seed, skipped=skipped)
        losses = {name: [compute_loss(plan, of) for plan in pairs[name]] for name, of in statistics.items()}
        folds.append(sum(plan - other for plan, other in losses.values()))
    return folds


def _describe(
    extra: Estimate,
    verdict: Verdict,
    changed: Sequence[str],
    widths: Mapping[str, int],
    others: Mapping[str, int],
) -> str:
    if not changed:
        return "The best widths of as many parameters are those of the plan."
    allowed = {Verdict.HOLDS: f"{MAX_LOSS:g} is allowed", Verdict.FAILS: f"only {MAX_LOSS:g} is allowed"}.get(
        verdict, f"whether that is within the {MAX_LOSS:g} allowed cannot be told by these rows"
    )
    named = [f"'{name}' {widths[name]} and not {others[name]}" for name in changed[:NAMED]]
    more = f", and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
    return (
        f"On the new weights the widths of the plan lose {format_estimate(extra, '.2g')} of the expected loss more than the best ones of "
        f"as many parameters; {allowed}. It keeps of {', '.join(named)}{more}."
    )
