"""`DriftFinding`: the result of one comparison of a bundle with new rows, in a sentence."""

from dataclasses import dataclass

from recprune_export.codec import ToDictMixin
from recprune_export.evidence import Estimate, Verdict


@dataclass(frozen=True)
class DriftFinding(ToDictMixin):
    """The verdict on one measure, with the reason; `SKIPPED` if it could not be measured.

    `estimate` is the estimated quantity, which may be at most `limit`, if there is one.
    """

    measure: str
    verdict: Verdict
    reason: str
    estimate: Estimate | None = None
    limit: float | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the plan is valid by this measure; None if that is inconclusive or was not judged."""
        return HOLDS.get(self.verdict)


HOLDS = {Verdict.HOLDS: True, Verdict.FAILS: False}
