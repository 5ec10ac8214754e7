"""`find_sparsity_within_drop`: the largest sparsity whose validation metric falls no more than the user allows."""

from collections.abc import Callable
from dataclasses import dataclass

from recprune_export.search.bisection import STEP, bisect_largest
from recprune_export.search.trials import Trial, Trials

SEEDS = 2  # that have to agree: one may be lucky


@dataclass(frozen=True)
class DropSearchResult:
    """The trials at the chosen sparsity, one for each seed, and all trials of the search."""

    sparsity: float
    confirmed: tuple[Trial, ...]
    trials: tuple[Trial, ...]


def find_sparsity_within_drop(
    trials: Trials, max_drop: float, first: float, seed: int = 0, report: Callable[[str], None] = lambda text: None
) -> DropSearchResult:
    """Bisect for the largest sparsity that holds, then let another seed confirm it; where it does not, go back a step.

    A trial holds where the whole interval of the change lies above -`max_drop`. Where nothing holds, the sparsity is 0.
    """

    reported: set[tuple[float, int]] = set()

    def holds(sparsity: float, trial_seed: int | None = None) -> bool:
        trial = trials.run(sparsity, trial_seed)
        within = trial.holds(max_drop)
        if (trial.sparsity, trial.seed) not in reported:
            reported.add((trial.sparsity, trial.seed))
            report(_format_trial(trial, within))
        return within

    *_, last = bisect_largest(holds, first)
    sparsity = last.lower
    while sparsity > 0.0:
        seeds = [seed + number for number in range(SEEDS)]
        confirmed = [holds(sparsity, trial_seed) for trial_seed in seeds]  # all run, so that each is reported
        if all(confirmed):
            runs = tuple(trials.run(sparsity, trial_seed) for trial_seed in seeds)
            return DropSearchResult(sparsity, runs, trials.completed)
        sparsity = max(0.0, round(1.0 - (1.0 - sparsity) * STEP, 4))
    return DropSearchResult(0.0, (), trials.completed)


def _format_trial(trial: Trial, within: bool) -> str:
    c = trial.change
    return (
        f"sparsity {trial.sparsity:.3f}, seed {trial.seed}: {c.metric} {c.change:+.4f} [{c.low:+.4f}, {c.high:+.4f}], "
        f"{'holds' if within else 'too much'}"
    )
