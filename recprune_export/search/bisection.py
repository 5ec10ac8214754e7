"""Bisection over the sparsity, or the removed fraction of the bytes, in equal steps of the logarithm of the density."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt

MAX_SPARSITY = 0.98
STEP = 1.08  # ratio of densities below which the search stops


@dataclass(frozen=True)
class Bracket:
    """The sparsities around the result: `lower` is the largest known to pass, `upper` the smallest known to fail."""

    lower: float
    upper: float

    @property
    def narrow(self) -> bool:
        """Whether the two are so close that the search can stop."""
        return (1.0 - self.lower) / (1.0 - self.upper) <= STEP

    @property
    def middle(self) -> float:
        """The sparsity in the middle of the logarithms of the densities."""
        return round(1.0 - sqrt((1.0 - self.lower) * (1.0 - self.upper)), 4)


def bisect_largest(predicate: Callable[[float], bool], first: float, most: float = MAX_SPARSITY) -> Iterator[Bracket]:
    """Yield narrowing brackets of the largest sparsity for which `predicate` is true, beginning with a trial at `first`.

    A sparsity below one that passes is assumed to pass, and so is 0. The last bracket is narrow, or has `most` as `lower`.

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
