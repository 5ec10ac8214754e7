"""Scales of axes: map values to positions, and choose the values of the tick marks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class AxisScale:
    """Map of values in [`low`, `high`] to positions from `start` to `end`; logarithmic if `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a value; values outside of the scale are clipped."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, self.clip(value)))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def clip(self, value: float) -> float:
        """Return `value`, clipped to the scale."""
        return min(max(value, self.low), self.high)

    def marks(self, most: int = 6) -> list[float]:
        """Return a few round values on the scale, about `most` at most.

        >>> AxisScale(0.0, 1.1, 0, 1).marks(), AxisScale(0.05, 3.0, 0, 1, log=True).marks()
        ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.05, 0.1, 0.2, 0.5, 1.0, 2.0])
        """
        return self._decades(most) if self.log and self.high > 5 * self.low else self._steps(most)

    def _decades(self, most: int) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for digits in ((1, 2, 5), (1, 3), (1,)):
            candidates = [round(d * 10.0**e, 12) for e, d in product(range(first, last + 1), digits)]
            inside = [v for v in candidates if self.low * 0.999 <= v <= self.high * 1.001]
            if len(inside) <= most:
                break
        return inside

    def _steps(self, most: int) -> list[float]:
        span = self.high - self.low
        unit = 10.0 ** math.floor(math.log10(span))
        step = next(s * unit for s in (0.2, 0.5, 1.0, 2.0, 5.0) if span / (s * unit) <= most - 0.5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(number * step, 12) for number in range(first, last + 1)]


def linear_scale(values: Iterable[float], start: float, end: float, margin: float = 0.08) -> AxisScale:
    """Return a linear scale that contains all values, with a margin at both ends."""
    low, high = _min_max(values)
    room = margin * (high - low) or abs(high) or 1.0
    return AxisScale(low - room, high + room, start, end)


def logarithmic_scale(values: Iterable[float], start: float, end: float, margin: float = 0.06) -> AxisScale:
    """Return a logarithmic scale that contains all values and spans at least a factor of two."""
    low, high = _min_max(max(value, 1e-9) for value in values)
    room = max((high / low) ** margin, math.sqrt(max(1.0, 2.0 * low / high)))
    return AxisScale(low / room, high * room, start, end, log=True)


def _min_max(values: Iterable[float]) -> tuple[float, float]:
    numbers = list(values)
    return min(numbers), max(numbers)
