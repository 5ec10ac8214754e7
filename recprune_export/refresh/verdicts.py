"""`CheckResult`: what one comparison says, in a sentence."""

from dataclasses import dataclass

from recprune_export.codec import ToDictMixin


@dataclass(frozen=True)
class DriftFinding(ToDictMixin):
    """Whether the plan holds by one measure; None where it could not be judged, and `reason` says why."""

    measure: str
    holds: bool | None
    reason: str

    @property
    def verdict(self) -> str:
        """The verdict in a word or two."""
        return "not judged" if self.holds is None else "holds" if self.holds else "does not hold"
