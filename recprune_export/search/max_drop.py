"""`find_sparsity_within_drop`: the largest sparsity whose validation metric falls no more than the user allows."""

from collections.abc import Callable
from dataclasses import dataclass

from recprune_export.search.bisection import STEP, bisect_largest
from recprune_export.search.trials import Trial, Trials

SEEDS = 2  # that have to agree: one may be lucky


@dataclass(frozen=True)
class DropSearchResult:
    """The trials at the sparsity that was chosen, one for each seed, and all that were made."""

    sparsity: float
    confirmed: tuple[Trial, ...]
    trials: tuple[Trial, ...]


def find_sparsity_within_drop(
    trials: Trials, max_drop: float, first: float, seed: int = 0, tell: Callable[[str], None] = lambda text: None
) -> DropSearchResult:
    """Bisect for the largest sparsity that holds, then let another seed confirm it; where it does not, go back a step.

    A trial holds where the whole interval of the change lies above -`max_drop`. Where nothing holds, the sparsity is 0.
    """

    told: set[tuple[float, int]] = set()

    def does(sparsity: float, own: int | None = None) -> bool:
        trial = trials.run(sparsity, own)
        held = trial.holds(max_drop)
        if (trial.sparsity, trial.seed) not in told:
            told.add((trial.sparsity, trial.seed))
            tell(_sentence(trial, held))
        return held

    *_, last = bisect_largest(does, first)
    sparsity = last.lower
    while sparsity > 0.0:
        seeds = [seed + number for number in range(SEEDS)]
        held = [does(sparsity, own) for own in seeds]
        if all(held):
            return DropSearchResult(sparsity, tuple(trials.run(sparsity, own) for own in seeds), trials.completed)
        sparsity = max(0.0, round(1.0 - (1.0 - sparsity) * STEP, 4))
    return DropSearchResult(0.0, (), trials.completed)


def _sentence(trial: Trial, held: bool) -> str:
    c = trial.change
    return (
        f"sparsity {trial.sparsity:.3f}, seed {trial.seed}: {c.metric} {c.change:+.4f} [{c.low:+.4f}, {c.high:+.4f}], "
        f"{'holds' if held else 'too much'}"
    )
