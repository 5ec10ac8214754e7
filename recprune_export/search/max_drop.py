"""`most_within`: the largest sparsity whose validation metric falls no more than the user allows."""

from collections.abc import Callable
from dataclasses import dataclass

from recprune_export.search.bisection import STEP, largest
from recprune_export.search.trials import Trial, Trials

SEEDS = 2  # that have to agree: one may be lucky


@dataclass(frozen=True)
class Found:
    """The trials at the sparsity that was chosen, one for each seed, and all that were made."""

    sparsity: float
    chosen: tuple[Trial, ...]
    all: tuple[Trial, ...]


def most_within(
    trials: Trials, max_drop: float, first: float, seed: int = 0, tell: Callable[[str], None] = lambda text: None
) -> Found:
    """Bisect for the largest sparsity that holds, then let another seed confirm it; where it does not, go back a step.

    A trial holds where the whole interval of the change lies above -`max_drop`. Where nothing holds, the sparsity is 0.
    """

    def does(sparsity: float) -> bool:
        trial = trials.at(sparsity)
        held = trial.holds(max_drop)
        tell(_sentence(trial, held))
        return held

    *_, last = largest(does, first)
    sparsity = last.fine
    while sparsity > 0.0:
        chosen = tuple(trials.at(sparsity, seed + number) for number in range(SEEDS))
        for trial in chosen[1:]:
            tell(_sentence(trial, trial.holds(max_drop)))
        if all(trial.holds(max_drop) for trial in chosen):
            return Found(sparsity, chosen, trials.done)
        sparsity = max(0.0, round(1.0 - (1.0 - sparsity) * STEP, 4))
    return Found(0.0, (), trials.done)


def _sentence(trial: Trial, held: bool) -> str:
    c = trial.change
    return (
        f"sparsity {trial.sparsity:.3f}, seed {trial.seed}: {c.metric} {c.change:+.4f} [{c.low:+.4f}, {c.high:+.4f}], "
        f"{'holds' if held else 'too much'}"
    )
