"""`find_point_within_drop`: find the smallest file, or the largest sparsity, whose validation metric falls by no more than the user
allows."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from recprune_export.errors import TooFewBytes
from recprune_export.evidence import Verdict, combine_verdicts
from recprune_export.number_formats import format_estimate
from recprune_export.search.bisection import STEP, bisect_largest
from recprune_export.search.operating_point import OperatingPoint
from recprune_export.search.speculation import run_ahead
from recprune_export.search.trial import Trial, TrialKey
from recprune_export.search.trials import Trials
from recprune_export.search.workers.tuning_workers import TuningWorkers

SEEDS = 2  # seeds that must agree, since one may pass by chance


@dataclass(frozen=True)
class DropSearchResult:
    """The trials at the chosen point, one for each seed, their verdict, and all trials of the rule, by decreasing density.

    If no point holds, it is None, `confirmed` is empty, and the verdict is that of the first trial.
    """

    point: OperatingPoint | None
    confirmed: tuple[Trial, ...]
    verdict: Verdict
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class DropClaim:
    """The claim that the metric falls by at most `max_drop`, which a trial must support.

    With `undecided_passes`, trials with an inconclusive claim also count.
    """

    max_drop: float
    undecided_passes: bool = False

    @property
    def accepted(self) -> frozenset[Verdict]:
        """The verdicts that a trial may have."""
        return frozenset({Verdict.HOLDS, Verdict.UNDECIDED} if self.undecided_passes else {Verdict.HOLDS})


Judge = Callable[[OperatingPoint, int], Verdict]  # of a point and a seed


class DropJudge:
    """Runs trials and judges them by a claim; each is reported once. `trials` are the requested trials."""

    def __init__(self, trials: Trials, claim: DropClaim, report: Callable[[str], None]) -> None:
        self._trials, self._claim, self._report = trials, claim, report
        self._judged: dict[TrialKey, Trial] = {}

    def __call__(self, point: OperatingPoint, seed: int) -> Verdict:
        """Run the trial of a point. A point fails if no plan is as small."""
        try:
            trial = self._trials.run(point, seed)
        except TooFewBytes:
            self._report(f"{point.label}: no plan for this model is this small")
            return Verdict.FAILS
        if (point, seed) not in self._judged:
            self._judged[point, seed] = trial
            self._report(format_trial(trial, self._claim.max_drop))
        return trial.judge(self._claim.max_drop)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials that were judged, by falling density."""
        return tuple(sorted(self._judged.values(), key=lambda t: (-t.point.density, t.seed)))

    def make_result(self, decision: "DropDecision") -> DropSearchResult:
        """Return a decision with its trials."""
        trials, point = self.trials, decision.point
        if point is None:
            verdict = trials[0].judge(self._claim.max_drop) if trials else Verdict.FAILS
            return DropSearchResult(None, (), verdict, trials)
        confirmed = tuple(sorted((t for t in trials if t.point == point), key=lambda t: t.seed))
        return DropSearchResult(point, confirmed, decision.verdict, trials)


@dataclass(frozen=True)
class DropDecision:
    """The point that the verdicts support, None if they support none."""

    point: OperatingPoint | None = None
    verdict: Verdict = Verdict.FAILS


@dataclass(frozen=True)
class DropRule:
    """The rule that chooses a point from the verdicts of trials; its next trials depend only on the verdicts.

    Bisect for the smallest density that holds, then confirm it with another seed; if that fails, go back one step. The density is the
    fraction of the parameters or, by `kind`, of the bytes that remains; `first` is the density of the first trial. With a `limit` below
    1, the limit comes first, and no trial has a larger density: if it does not hold, no point does. A fraction of bytes has one plan: the
    fastest of those with nearly the least predicted loss, whose predicted time is limited to `microseconds` unless this is 0.
    """

    accepted: frozenset[Verdict]
    kind: Literal["sparsity", "bytes"]
    first: float
    seed: int = 0
    limit: float = 1.0
    microseconds: float = 0.0

    def make_point(self, removed: float) -> OperatingPoint:
        """Return the point for a removed fraction."""
        return replace(OperatingPoint.at_density(self.kind, 1.0 - removed), microseconds=self.microseconds)

    def decide(self, judge: Judge) -> DropDecision:
        """Choose a point by the verdicts of `judge`."""

        def accepts(removed: float) -> bool:
            return judge(self.make_point(removed), self.seed) in self.accepted

        least = 1.0 - self.limit
        first_removed = 1.0 - self.first if self.limit >= 1.0 else least
        if self.limit < 1.0 and not accepts(least):
            return DropDecision()
        *_, last = bisect_largest(accepts, first_removed)
        removed = last.lower
        while removed > 0.0:
            decision = confirm(judge, self.accepted, self.make_point(removed), self.seed)
            if decision.point is not None:
                return decision
            if removed <= least:
                break
            removed = max(least, 0.0, round(1.0 - (1.0 - removed) * STEP, 4))
        return DropDecision()


def confirm(judge: Judge, accepted: frozenset[Verdict], point: OperatingPoint, seed: int) -> DropDecision:
    """Choose `point` if the trials of `SEEDS` seeds together support the claim."""
    verdict = combine_verdicts([judge(point, seed + number) for number in range(SEEDS)])  # all run and are reported
    return DropDecision(point, verdict) if verdict in accepted else DropDecision()


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
    workers: TuningWorkers | None = None,
) -> DropSearchResult:
    """Find the least density that holds, by `DropRule`; `workers` run trials in parallel; the requested trials are the same.

    Raises `TooFewBytes` if no plan is within `limit`.
    """
    rule = DropRule(claim.accepted, kind, first, seed, limit, microseconds)
    if workers is not None:
        run_ahead(trials, claim.max_drop, rule.decide, workers)
    if limit < 1.0:
        trials.run(rule.make_point(1.0 - limit), seed)  # raises an error if no plan is within the limit
    judge = DropJudge(trials, claim, report)
    return judge.make_result(rule.decide(judge))


def confirm_point(
    trials: Trials,
    claim: DropClaim,
    point: OperatingPoint,
    seed: int = 0,
    report: Callable[[str], None] = lambda text: None,
    workers: TuningWorkers | None = None,
) -> DropSearchResult:
    """Judge one point by trials of `SEEDS` seeds."""
    if workers is not None:
        run_ahead(trials, claim.max_drop, lambda judge: confirm(judge, claim.accepted, point, seed), workers)
    judge = DropJudge(trials, claim, report)
    return judge.make_result(confirm(judge, claim.accepted, point, seed))


def format_trial(trial: Trial, max_drop: float) -> str:
    """Return the change of the metric of one trial, and the verdict on its claim, in a line."""
    return (
        f"{trial.point.label}, seed {trial.seed}: {trial.change.metric} {format_estimate(trial.change.estimate)}; "
        f"a loss of at most {max_drop:g}: {trial.judge(max_drop).text}"
    )
