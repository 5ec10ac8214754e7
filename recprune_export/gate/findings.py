"""Result of a gate: values, limit and verdict."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from recprune_export.codec import ToDictMixin
from recprune_export.validation.latency.statistics import Estimate


class Verdict(Enum):
    """Verdict of one gate, or of all together."""

    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"
    SKIPPED = "skipped"


@dataclass(frozen=True)
class Finding(ToDictMixin):
    """Result of one gate. `limit` and `reason` are texts; `ratio` is NEW / BASE with its interval, if measured.

    `most`: fraction by which the value may grow, if the limit is one of growth.
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
    """Return the overall verdict: one failure fails, and skipped gates do not count.

    >>> overall_verdict([Finding("nodes", Verdict.PASS, ""), Finding("latency", Verdict.UNDECIDED, "")])
    <Verdict.UNDECIDED: 'undecided'>
    """
    verdicts = {finding.verdict for finding in findings}
    for verdict in (Verdict.FAIL, Verdict.UNDECIDED):
        if verdict in verdicts:
            return verdict
    return Verdict.PASS


def make_skipped_finding(gate: str, reason: str) -> Finding:
    """Make the finding of a gate that cannot be evaluated."""
    return Finding(gate, Verdict.SKIPPED, reason)
