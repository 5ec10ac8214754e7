"""Scales of axes: values to places, and the values at which an axis is marked."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class AxisScale:
    """Maps [`low`, `high`] to places from `start` to `end`, by the logarithm where it is `log`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value; what lies outside is put at the end that is nearer."""
        low, high, value = (math.log(v) if self.log else v for v in (self.low, self.high, self.kept(value)))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def kept(self, value: float) -> float:
        """Return `value`, or the end of the scale that is nearest to it."""
        return min(max(value, self.low), self.high)

    def marks(self) -> list[float]:
        """Return a few round values on the scale.

        >>> AxisScale(0.0, 1.1, 0, 1).marks(), AxisScale(0.05, 3.0, 0, 1, log=True).marks()
        ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.05, 0.1, 0.2, 0.5, 1.0, 2.0])
        """
        return self._decades() if self.log and self.high > 5 * self.low else self._steps()

    def _decades(self) -> list[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for digits in ((1, 2, 5), (1, 3), (1,)):
            found = [round(d * 10.0**e, 12) for e, d in product(range(first, last + 1), digits)]
            inside = [v for v in found if self.low * 0.999 <= v <= self.high * 1.001]
            if len(inside) <= 6:
                break
        return inside

    def _steps(self) -> list[float]:
        span = self.high - self.low
        unit = 10.0 ** math.floor(math.log10(span))
        step = next(s * unit for s in (0.2, 0.5, 1.0, 2.0, 5.0) if span / (s * unit) <= 5.5)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(number * step, 12) for number in range(first, last + 1)]


def linear_scale(values: Iterable[float], start: float, end: float, margin: float = 0.08) -> AxisScale:
    """Return a scale on which all values lie, with some room at both ends."""
    low, high = _ends(values)
    room = margin * (high - low) or abs(high) or 1.0
    return AxisScale(low - room, high + room, start, end)


def logarithmic_scale(values: Iterable[float], start: float, end: float, margin: float = 0.06) -> AxisScale:
    """Return a logarithmic scale on which all values lie, at least a factor of two."""
    low, high = _ends(max(value, 1e-9) for value in values)
    room = max((high / low) ** margin, math.sqrt(max(1.0, 2.0 * low / high)))
    return AxisScale(low / room, high * room, start, end, log=True)


def _ends(values: Iterable[float]) -> tuple[float, float]:
    known = list(values)
    return min(known), max(known)
