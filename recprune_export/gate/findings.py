"""Result of a gate: values, limit and verdict."""

from dataclasses import dataclass

from recprune_export.codec import ToDictMixin
from recprune_export.evidence import Estimate, Verdict


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


def make_skipped_finding(gate: str, reason: str) -> Finding:
    """Make the finding of a gate that cannot be evaluated."""
    return Finding(gate, Verdict.SKIPPED, reason)
