"""`DriftFinding`: the result of one comparison of a bundle with new rows, in a sentence."""

from dataclasses import dataclass

from recprune_export.codec import ToDictMixin


@dataclass(frozen=True)
class DriftFinding(ToDictMixin):
    """Whether the plan holds by one measure, with the reason; None where it could not be judged."""

    measure: str
    holds: bool | None
    reason: str

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        return "not judged" if self.holds is None else "holds" if self.holds else "does not hold"
