"""Result of a gate: values, limit and verdict."""

from dataclasses import asdict, dataclass
from typing import Annotated

from recprune_export.codec import JsonForm, ToDictMixin, finite_or_none
from recprune_export.evidence import Estimate, Verdict


def _write_estimate(estimate: Estimate | None) -> dict[str, float | None] | None:
    if estimate is None:
        return None
    return {name: finite_or_none(value) for name, value in asdict(estimate).items()}


@dataclass(frozen=True)
class Finding(ToDictMixin):
    """Result of one gate. `limit` and `reason` are strings; `ratio` is NEW / BASE with its interval, if measured.

    `most`: fraction by which the value may grow, if the limit is one of growth. `change` is NEW - BASE of a metric, with its
    interval.
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
    change: Annotated[Estimate | None, JsonForm(_write_estimate)] = None


def format_at_most(tolerance: float) -> str:
    """Format a limit of growth.

    >>> format_at_most(0.25)
    'at most 25 % more'
    """
    return f"at most {100 * tolerance:g} % more"


def make_skipped_finding(gate: str, reason: str) -> Finding:
    """Make the finding of a gate that cannot be evaluated."""
    return Finding(gate, Verdict.SKIPPED, reason)
