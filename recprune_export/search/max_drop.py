"""`find_point_within_drop`: the least bytes, or the largest sparsity, whose validation metric falls no more than the user allows."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from recprune_export.errors import TooFewBytes
from recprune_export.evidence import Verdict, combine_verdicts
from recprune_export.number_formats import format_estimate
from recprune_export.search.bisection import STEP, bisect_largest
from recprune_export.search.operating_point import OperatingPoint, PointKind
from recprune_export.search.trials import Trial, Trials

SEEDS = 2  # that have to agree: one may be lucky


@dataclass(frozen=True)
class DropSearchResult:
    """The trials at the chosen point, one for each seed, their verdict, and all trials of its kind, by falling density.

    Where no point holds, it is None, `confirmed` is empty, and the verdict is that of the first trial.
    """

    point: OperatingPoint | None
    confirmed: tuple[Trial, ...]
    verdict: Verdict
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class DropClaim:
    """The claim that the metric falls by at most `max_drop`, which a trial has to support.

    With `undecided_passes` trials count as well whose claim cannot be told.
    """

    max_drop: float
    undecided_passes: bool = False

    @property
    def accepted(self) -> frozenset[Verdict]:
        """The verdicts that a trial may have."""
        return frozenset({Verdict.HOLDS, Verdict.UNDECIDED} if self.undecided_passes else {Verdict.HOLDS})


class DropJudge:
    """Runs trials and judges them by a claim; each is reported once."""

    def __init__(self, trials: Trials, claim: DropClaim, report: Callable[[str], None]) -> None:
        self._trials, self._claim, self._report = trials, claim, report
        self._reported: set[tuple[OperatingPoint, int]] = set()

    def judge(self, point: OperatingPoint, seed: int | None = None) -> Verdict:
        """Run the trial of a point. One that no plan is as small as fails."""
        try:
            trial = self._trials.run(point, seed)
        except TooFewBytes:
            self._report(f"{point.label}: no plan of this model has so few")
            return Verdict.FAILS
        if (point, trial.seed) not in self._reported:
            self._reported.add((point, trial.seed))
            self._report(format_trial(trial, self._claim.max_drop))
        return trial.judge(self._claim.max_drop)

    def accepts(self, point: OperatingPoint) -> bool:
        """Return whether one trial supports the claim."""
        return self.judge(point) in self._claim.accepted

    def confirm(self, point: OperatingPoint, seed: int) -> DropSearchResult | None:
        """Return the result where the trials of `SEEDS` seeds support the claim together, else None."""
        seeds = [seed + number for number in range(SEEDS)]
        verdict = combine_verdicts([self.judge(point, trial_seed) for trial_seed in seeds])  # all run and are reported
        if verdict not in self._claim.accepted:
            return None
        runs = tuple(self._trials.run(point, trial_seed) for trial_seed in seeds)
        return DropSearchResult(point, runs, verdict, list_trials(self._trials, point.kind))


def find_point_within_drop(
    trials: Trials,
    claim: DropClaim,
    kind: Literal["sparsity", "bytes"],
    first: float,
    seed: int = 0,
    report: Callable[[str], None] = lambda text: None,
    *,
    limit: float = 1.0,
    microseconds: float = 0.0,
) -> DropSearchResult:
    """Bisect for the least density that holds, then let another seed confirm it; where it does not, go back a step.

    The density is the fraction of the parameters or, by `kind`, of the bytes that stays; `first` is that of the first trial.
    With a `limit` below 1 that is the first, and no trial has more: where it does not hold, none is taken to. A fraction of
    bytes has one plan: of nearly the least predicted loss the one of least predicted time, which is limited to `microseconds`
    unless they are 0.

    Raises `TooFewBytes` where no plan has as few bytes as `limit`.
    """
    judge = DropJudge(trials, claim, report)

    def make_point(removed: float) -> OperatingPoint:
        return replace(OperatingPoint.at_density(kind, 1.0 - removed), microseconds=microseconds)

    least = 1.0 - limit
    first_removed = 1.0 - first if limit >= 1.0 else least  # which passed
    if limit < 1.0:
        trials.run(make_point(least))  # raises where no plan keeps to the limit at all
        if not judge.accepts(make_point(least)):
            return _make_empty_result(trials, kind, claim)
    *_, last = bisect_largest(lambda removed: judge.accepts(make_point(removed)), first_removed)
    removed = last.lower
    while removed > 0.0:
        result = judge.confirm(make_point(removed), seed)
        if result is not None:
            return result
        if removed <= least:
            break
        removed = max(least, 0.0, round(1.0 - (1.0 - removed) * STEP, 4))
    return _make_empty_result(trials, kind, claim)


def confirm_point(
    trials: Trials,
    claim: DropClaim,
    point: OperatingPoint,
    seed: int = 0,
    report: Callable[[str], None] = lambda text: None,
) -> DropSearchResult:
    """Judge one point by trials of `SEEDS` seeds."""
    return DropJudge(trials, claim, report).confirm(point, seed) or _make_empty_result(trials, point.kind, claim)


def list_trials(trials: Trials, kind: PointKind) -> tuple[Trial, ...]:
    """Return the trials of one kind so far, by falling density."""
    return tuple(sorted((t for t in trials.completed if t.point.kind == kind), key=lambda t: -t.point.density))


def _make_empty_result(trials: Trials, kind: PointKind, claim: DropClaim) -> DropSearchResult:
    completed = list_trials(trials, kind)
    verdict = completed[0].judge(claim.max_drop) if completed else Verdict.FAILS
    return DropSearchResult(None, (), verdict, completed)


def format_trial(trial: Trial, max_drop: float) -> str:
    """Return the change of the metric of one trial, and the verdict on its claim, in a line."""
    return (
        f"{trial.point.label}, seed {trial.seed}: {trial.change.metric} {format_estimate(trial.change.estimate)}; "
        f"a loss of at most {max_drop:g} {trial.judge(max_drop).words}"
    )
