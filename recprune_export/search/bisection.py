"""Bisection over sparsity, in equal steps of the logarithm of what stays."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt

MAX_SPARSITY = 0.98  # sparsity
STEP = 1.08  # times as many parameters: what is not told apart


@dataclass(frozen=True)
class Bracket:
    """The sparsities between which the answer lies: `lower` is the largest that is known to do, `upper` the least that is not."""

    lower: float
    upper: float

    @property
    def narrow(self) -> bool:
        """Whether there is nothing to gain between the two."""
        return (1.0 - self.lower) / (1.0 - self.upper) <= STEP

    @property
    def middle(self) -> float:
        """Return the sparsity at which the logarithm of what stays is halved."""
        return round(1.0 - sqrt((1.0 - self.lower) * (1.0 - self.upper)), 4)


def bisect_largest(predicate: Callable[[float], bool], first: float, most: float = MAX_SPARSITY) -> Iterator[Bracket]:
    """Yield narrower and narrower brackets of the largest sparsity that `predicate`, beginning with a trial at `first`.

    What does at one sparsity is taken to do at every smaller one; at 0 everything does. The last bracket is narrow, or
    has `most` as what is fine.

    >>> *_, last = bisect_largest(lambda s: s <= 0.8, first=0.7)
    >>> 0.78 < last.lower <= 0.8 < last.upper
    True
    """
    bracket = Bracket(0.0, 1.0)
    trial = first
    while True:
        bracket = Bracket(trial, bracket.upper) if predicate(trial) else Bracket(bracket.lower, trial)
        yield bracket
        if bracket.lower >= most or (bracket.upper < 1.0 and bracket.narrow):
            return
        trial = most if bracket.upper >= 1.0 else bracket.middle
