"""`recommend_point`: the operating point that the trials of a sweep support."""

from collections.abc import Sequence
from dataclasses import dataclass

from recprune_export.evidence import Verdict
from recprune_export.row_resolution import format_resolution
from recprune_export.search.operating_point import OperatingPoint
from recprune_export.search.trial import Trial


@dataclass(frozen=True)
class Recommendation:
    """An operating point with the reason for it; `point` is None if no trial supports one."""

    point: OperatingPoint | None
    reason: str


def recommend_point(trials: Sequence[Trial], max_drop: float) -> Recommendation:
    """Return the point with the smallest file at which the metric certainly falls by at most `max_drop`.

    If the claim holds for no trial, it is the smallest at which it is inconclusive, and the reason states this.
    """
    metric = trials[0].change.metric
    claim = f"the {metric} drops by at most {max_drop:g}"
    for verdict, reason in (
        (Verdict.HOLDS, f"the smallest file at which {claim}"),
        (
            Verdict.UNDECIDED,
            f"the smallest file at which the result is not negative, but inconclusive, for the claim that {claim}",
        ),
    ):
        supported = [trial for trial in trials if trial.judge(max_drop) is verdict]
        if supported:
            smallest = min(supported, key=_count_bytes)
            change = smallest.change
            if verdict is Verdict.UNDECIDED:
                reason += f": {format_resolution(change.rows, change.loss.resolution)}"
            return Recommendation(smallest.point, reason)
    return Recommendation(None, f"none: at every point the {metric} drops by more than {max_drop:g}")


def _count_bytes(trial: Trial) -> int:
    assert trial.artifact is not None, "these trials contain no measurements of files"
    return trial.artifact.bytes
