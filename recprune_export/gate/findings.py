"""What a gate found: the values, the limit, and the verdict."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from recprune_export.codec import ToDictMixin
from recprune_export.validation.latency.statistics import Estimate


class Verdict(Enum):
    """Of one gate, or of all together."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding(ToDictMixin):
    """One gate. `limit` and `reason` are words; `ratio` is NEW / BASE with its interval, where there is one.

    `most` is the part of itself by which the figure may grow, where the limit is one.
    """

    gate: str
    verdict: Verdict
    reason: str
    base: float | None = None
    new: float | None = None
    unit: str = ""
    limit: str = ""
    ratio: Estimate | None = None
    most: float | None = None


def overall_verdict(findings: Iterable[Finding]) -> Verdict:
    """Return the verdict of all gates: one failure fails, and what is skipped does not count.

    >>> overall_verdict([Finding("nodes", Verdict.PASS, ""), Finding("latency", Verdict.UNDECIDED, "")])
    <Verdict.UNDECIDED: 'undecided'>
    """
    verdicts = {finding.verdict for finding in findings}
    for verdict in (Verdict.FAIL, Verdict.UNDECIDED):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS


def make_skipped_finding(gate: str, reason: str) -> Finding:
    """Return the finding of a gate that has nothing to judge."""
    return Finding(gate, Verdict.SKIPPED, reason)
