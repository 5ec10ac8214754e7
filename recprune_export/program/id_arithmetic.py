"""Integer arithmetic between an input and the table in which its ids are looked up, and the valid ids that follow for the input.

A quotient-remainder embedding looks up `id // 4` and `id % 4`; positions are `length - arange(n)`. Each operator with a
constant is a step, and the range of valid rows is followed backwards through the steps.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

StepKind = Literal["add", "multiply", "divide", "floor divide", "remainder", "at least", "at most"]
Step = tuple[StepKind, float]
Bounds = tuple[float, float]  # lowest and highest value, inclusive; infinite if unbounded


@dataclass
class StepChains:
    """The chains of steps applied to elements, each with a number; 0 is the empty chain."""

    chains: list[tuple[Step, ...]] = field(default_factory=lambda: [()])
    _numbers: dict[tuple[Step, ...], int] = field(default_factory=lambda: {(): 0})

    def __getitem__(self, number: int) -> tuple[Step, ...]:
        return self.chains[number]

    def extend(self, numbers: Tensor, kind: StepKind, constant: Tensor) -> Tensor:
        """Return the numbers of the chains extended by one step, each with a separate constant, broadcast."""
        before, constants = torch.broadcast_tensors(numbers, constant.to(torch.float64))
        pairs, inverse = torch.stack([before.double().flatten(), constants.flatten()]).unique(
            dim=1, return_inverse=True
        )
        new = [self._add((*self.chains[int(number)], (kind, float(c)))) for number, c in pairs.T.tolist()]
        return torch.tensor(new, dtype=torch.int64)[inverse].reshape(before.shape)

    def _add(self, chain: tuple[Step, ...]) -> int:
        if chain not in self._numbers:
            self._numbers[chain] = len(self.chains)
            self.chains.append(chain)
        return self._numbers[chain]


def find_valid_values(chain: Iterable[Step], bounds: Bounds) -> Bounds | None:
    """Return integers, from the lowest to the highest, that `chain` maps into `bounds`; None if there are none.

    Every value in the result is mapped into the bounds; for `remainder` and for fractions there may be further ones.

    >>> find_valid_values([("floor divide", 4.0)], (0, 24)), find_valid_values([("remainder", 4.0)], (0, 3))
    ((0, 99), (-inf, inf))
    >>> find_valid_values([("multiply", -1.0), ("add", 10.0)], (0, 9)), find_valid_values([("at least", 0.0)], (0, 9))
    ((1, 10), (-inf, 9))
    """
    low, high = bounds
    for kind, constant in reversed(tuple(chain)):
        found = _find_sources(kind, constant, float(low), float(high))
        if found is None or found[0] > found[1]:
            return None
        low, high = found
    return math.ceil(low) if math.isfinite(low) else low, math.floor(high) if math.isfinite(high) else high


def _find_sources(kind: StepKind, c: float, low: float, high: float) -> Bounds | None:
    """Return values from which one step leads into the bounds, or None if no whole range does."""
    everything = (-math.inf, math.inf)
    if kind == "add":
        return low - c, high - c
    if kind == "multiply":
        if c == 0:
            return everything if low <= 0 <= high else None
        ends = sorted((low / c, high / c))
        return ends[0], ends[1]
    if kind == "divide":
        ends = sorted((low * c, high * c))
        return (ends[0], ends[1]) if c else None
    if kind == "floor divide":
        return (low * c, high * c + c - 1) if c > 0 else None
    if kind == "remainder":
        if c <= 0:
            return None
        return everything if low <= 0 and high >= c - 1 else (max(low, 0.0), min(high, c - 1))
    if kind == "at least":
        return None if high < c else (-math.inf if low <= c else low, high)
    return None if low > c else (low, math.inf if high >= c else high)
