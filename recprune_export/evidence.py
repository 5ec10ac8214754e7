"""The rule of evidence: a claim holds, fails, or is inconclusive, depending on where an interval lies relative to a limit.

A point estimate is not enough for a verdict. The claim that a quantity is at most some limit *holds* if its whole 95 %
interval lies at or below the limit, *fails* if the whole interval lies above it, and is *inconclusive* if the limit lies inside:
then more rows or more measurements are needed. The first two verdicts are therefore wrong in at most 2.5 % of the cases in
which the true value equals the limit, and less often otherwise.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist


@dataclass(frozen=True)
class Estimate:
    """A figure and its confidence interval."""

    estimate: float
    low: float
    high: float

    @property
    def resolution(self) -> float:
        """Half the width of the interval; smaller differences from a limit are inconclusive.

        >>> Estimate(0.0, -0.25, 0.25).resolution
        0.25
        """
        return (self.high - self.low) / 2.0

    def __neg__(self) -> "Estimate":
        return Estimate(-self.estimate, -self.high, -self.low)

    def apply(self, rising: Callable[[float], float]) -> "Estimate":
        """Return the estimate of a rising function of the figure, such as the ratio from its logarithm.

        >>> Estimate(1.0, 0.0, 2.0).apply(lambda x: 2.0**x)
        Estimate(estimate=2.0, low=1.0, high=4.0)
        """
        return Estimate(rising(self.estimate), rising(self.low), rising(self.high))


class Verdict(Enum):
    """The result of one claim, or of several together."""

    HOLDS = "pass"  # the values are those of test reports
    FAILS = "fail"
    UNDECIDED = "undecided"
    SKIPPED = "skipped"

    @property
    def words(self) -> str:
        """The verdict in manifests and `--json`."""
        return {"pass": "holds", "fail": "fails", "undecided": "cannot be told", "skipped": "is not judged"}[self.value]

    @property
    def text(self) -> str:
        """The verdict on screens and pages."""
        return {"pass": "holds", "fail": "fails", "undecided": "inconclusive", "skipped": "not judged"}[self.value]


def judge_at_most(estimate: Estimate, limit: float) -> Verdict:
    """Judge the claim that the quantity is at most `limit`.

    >>> [judge_at_most(Estimate(e, e - 1.0, e + 1.0), 2.0).text for e in (0.5, 2.5, 4.0)]
    ['holds', 'inconclusive', 'fails']
    """
    if not estimate.low <= estimate.high:  # NaN included
        return Verdict.UNDECIDED
    if estimate.high <= limit:
        return Verdict.HOLDS
    return Verdict.FAILS if estimate.low > limit else Verdict.UNDECIDED


def judge_at_least(estimate: Estimate, limit: float) -> Verdict:
    """Judge the claim that the quantity is at least `limit`.

    >>> [judge_at_least(Estimate(e, e - 1.0, e + 1.0), 2.0).text for e in (0.5, 2.5, 4.0)]
    ['fails', 'inconclusive', 'holds']
    """
    return judge_at_most(-estimate, -limit)


def combine_verdicts(verdicts: Iterable[Verdict], undecided: Verdict = Verdict.UNDECIDED) -> Verdict:
    """Return the verdict on all claims together: fails if one fails, else inconclusive if one is; skipped claims do not count.

    `undecided` is the verdict to return for an inconclusive result.

    >>> combine_verdicts([Verdict.HOLDS, Verdict.UNDECIDED, Verdict.SKIPPED])
    <Verdict.UNDECIDED: 'undecided'>
    >>> combine_verdicts([Verdict.HOLDS, Verdict.UNDECIDED], undecided=Verdict.HOLDS)
    <Verdict.HOLDS: 'pass'>
    """
    present = set(verdicts)
    if Verdict.FAILS in present:
        return Verdict.FAILS
    return undecided if Verdict.UNDECIDED in present else Verdict.HOLDS


def t_quantile(probability: float, freedom: float) -> float:
    """Return a quantile of Student's t by its expansion around the normal quantile (Abramowitz & Stegun 26.7.5).

    >>> round(t_quantile(0.975, 10), 2), round(t_quantile(0.995, 7), 2)
    (2.23, 3.5)
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))
