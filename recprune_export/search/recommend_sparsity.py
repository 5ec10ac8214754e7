"""`recommend_sparsity`: the sparsity that the trials of a sweep support."""

from collections.abc import Sequence
from dataclasses import dataclass

from recprune_export.evidence import Verdict
from recprune_export.row_resolution import format_resolution
from recprune_export.search.trials import Trial


@dataclass(frozen=True)
class Recommendation:
    """A sparsity with the reason for it; `sparsity` is None where no trial supports one."""

    sparsity: float | None
    reason: str


def recommend_sparsity(trials: Sequence[Trial], knee: int | None, max_drop: float) -> Recommendation:
    """Return the knee, or without one the largest sparsity at which the metric certainly falls by at most `max_drop`.

    Where the rows show that for no trial, it is the largest sparsity at which they do not show the opposite, and the reason
    says so. `trials` come by rising sparsity; a knee beyond what `max_drop` allows is not recommended.
    """
    verdicts = [trial.judge(max_drop) for trial in trials]
    metric = trials[0].change.metric
    claim = f"the {metric} falls by at most {max_drop:g}"
    if knee is not None and verdicts[knee] is not Verdict.FAILS:
        return Recommendation(trials[knee].sparsity, f"the knee; that {claim} {verdicts[knee].words}")
    for verdict, reason in (
        (Verdict.HOLDS, f"the largest at which {claim}"),
        (Verdict.UNDECIDED, f"the largest at which these rows do not exclude that {claim}; they cannot tell more"),
    ):
        positions = [position for position, other in enumerate(verdicts) if other is verdict]
        if positions:
            change = trials[positions[-1]].change
            if verdict is Verdict.UNDECIDED:
                reason += f": {format_resolution(change.rows, change.loss.resolution)}"
            return Recommendation(trials[positions[-1]].sparsity, reason)
    return Recommendation(None, f"none: at every sparsity the {metric} falls by more than {max_drop:g}")
