"""Bisection over sparsity, in equal steps of the logarithm of what stays."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import sqrt

MOST = 0.98  # sparsity
STEP = 1.08  # times as many parameters: what is not told apart


@dataclass(frozen=True)
class Bracket:
    """The sparsities between which the answer lies: `fine` is the largest that is known to do, `too_much` the least that is not."""

    fine: float
    too_much: float

    @property
    def narrow(self) -> bool:
        """Whether there is nothing to gain between the two."""
        return (1.0 - self.fine) / (1.0 - self.too_much) <= STEP

    @property
    def middle(self) -> float:
        """Return the sparsity at which the logarithm of what stays is halved."""
        return round(1.0 - sqrt((1.0 - self.fine) * (1.0 - self.too_much)), 4)


def largest(does: Callable[[float], bool], first: float, most: float = MOST) -> Iterator[Bracket]:
    """Yield narrower and narrower brackets of the largest sparsity that `does`, beginning with a trial at `first`.

    What does at one sparsity is taken to do at every smaller one; at 0 everything does. The last bracket is narrow, or
    has `most` as what is fine.

    >>> *_, last = largest(lambda s: s <= 0.8, first=0.7)
    >>> 0.78 < last.fine <= 0.8 < last.too_much
    True
    """
    bracket = Bracket(0.0, 1.0)
    trial = first
    while True:
        bracket = Bracket(trial, bracket.too_much) if does(trial) else Bracket(bracket.fine, trial)
        yield bracket
        if bracket.fine >= most or (bracket.too_much < 1.0 and bracket.narrow):
            return
        trial = most if bracket.too_much >= 1.0 else bracket.middle
