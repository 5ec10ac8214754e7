"""`find_sparsity_within_drop`: the largest sparsity whose validation metric falls no more than the user allows."""

from collections.abc import Callable
from dataclasses import dataclass

from recprune_export.evidence import Verdict, combine_verdicts
from recprune_export.number_formats import format_estimate
from recprune_export.search.bisection import STEP, bisect_largest
from recprune_export.search.trials import Trial, Trials

SEEDS = 2  # that have to agree: one may be lucky


@dataclass(frozen=True)
class DropSearchResult:
    """The trials at the chosen sparsity, one for each seed, their verdict, and all trials of the search.

    Where no sparsity holds, it is 0, `confirmed` is empty, and the verdict is that of the least sparsity that was tried.
    """

    sparsity: float
    confirmed: tuple[Trial, ...]
    verdict: Verdict
    trials: tuple[Trial, ...]


def find_sparsity_within_drop(
    trials: Trials,
    max_drop: float,
    first: float,
    seed: int = 0,
    report: Callable[[str], None] = lambda text: None,
    *,
    undecided_passes: bool = False,
) -> DropSearchResult:
    """Bisect for the largest sparsity that holds, then let another seed confirm it; where it does not, go back a step.

    The claim of a trial is that the metric falls by at most `max_drop`. With `undecided_passes` trials count as well whose
    claim cannot be told.
    """
    accepted = {Verdict.HOLDS, Verdict.UNDECIDED} if undecided_passes else {Verdict.HOLDS}
    reported: set[tuple[float, int]] = set()

    def judge(sparsity: float, trial_seed: int | None = None) -> Verdict:
        trial = trials.run(sparsity, trial_seed)
        if (trial.sparsity, trial.seed) not in reported:
            reported.add((trial.sparsity, trial.seed))
            report(format_trial(trial, max_drop))
        return trial.judge(max_drop)

    *_, last = bisect_largest(lambda sparsity: judge(sparsity) in accepted, first)
    sparsity = last.lower
    while sparsity > 0.0:
        seeds = [seed + number for number in range(SEEDS)]
        verdict = combine_verdicts([judge(sparsity, trial_seed) for trial_seed in seeds])  # all run and are reported
        if verdict in accepted:
            runs = tuple(trials.run(sparsity, trial_seed) for trial_seed in seeds)
            return DropSearchResult(sparsity, runs, verdict, trials.completed)
        sparsity = max(0.0, round(1.0 - (1.0 - sparsity) * STEP, 4))
    return DropSearchResult(0.0, (), trials.completed[0].judge(max_drop), trials.completed)


def format_trial(trial: Trial, max_drop: float) -> str:
    """Return the change of the metric of one trial, and the verdict on its claim, in a line."""
    return (
        f"sparsity {trial.sparsity:.3f}, seed {trial.seed}: {trial.change.metric} {format_estimate(trial.change.estimate)}; "
        f"a loss of at most {max_drop:g} {trial.judge(max_drop).words}"
    )
