"""`SpeedTarget`: the required speed of an artifact, as a ratio to the dense model or as a time on this machine."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recprune_export.environment import read_cpu_name
from recprune_export.evidence import Estimate
from recprune_export.latency_limit import LatencyLimit
from recprune_export.number_formats import format_estimate
from recprune_export.search.speed.measure_speedup import measure_headroom, measure_speedup
from recprune_export.validation.latency.request_cycle import RequestCycles


@dataclass(frozen=True)
class SpeedTarget(ABC):
    """A measured speed must be at least `threshold`; it increases with the removed part.

    `batch_sizes` are those of the measurement, `threads` those of each session.
    """

    threshold: float
    batch_sizes: tuple[int, ...]
    threads: int = 1

    @abstractmethod
    def measure(self, dense: Path, pruned: Path, requests: RequestCycles, seed: int) -> Estimate:
        """Return the speed of an ONNX file, timed interleaved with the dense model."""

    @property
    @abstractmethod
    def words(self) -> str:
        """The claim about the model, in words."""

    @abstractmethod
    def describe(self, speed: Estimate) -> str:
        """Return a measured speed in words, with the conditions."""

    @property
    def conditions(self) -> str:
        """The conditions of the measurement, in words."""
        name = "batch size" if len(self.batch_sizes) == 1 else "mean of batch sizes"
        return f"{self._format_sizes(name)}, {self._format_threads()}"

    def _format_sizes(self, name: str) -> str:
        *first, last = map(str, self.batch_sizes)
        return f"{name} {', '.join(first)} and {last}" if first else f"{name} {last}"

    def _format_threads(self) -> str:
        return f"{self.threads} thread" + ("s" if self.threads > 1 else "")


@dataclass(frozen=True)
class SpeedupTarget(SpeedTarget):
    """The speed-up over the dense model in ONNX Runtime, as a geometric mean over batch sizes."""

    def measure(self, dense: Path, pruned: Path, requests: RequestCycles, seed: int) -> Estimate:
        return measure_speedup(dense, pruned, requests, self.threads, seed)

    @property
    def words(self) -> str:
        return f"at least {self.threshold:g} times as fast as the dense model in ONNX Runtime"

    def describe(self, speed: Estimate) -> str:
        return f"{format_estimate(speed, '.2f')} times as fast as the dense model ({self.conditions})"


@dataclass(frozen=True)
class LatencyTarget(SpeedTarget):
    """Times that requests may take on this machine; the speed is the least ratio of a limit to the measured time."""

    limits: tuple[LatencyLimit, ...] = field(default=(), kw_only=True)

    @classmethod
    def from_limits(cls, limits: Sequence[LatencyLimit], threads: int = 1) -> "LatencyTarget":
        """Return the target that a request of each batch size takes at most its limit."""
        return cls(1.0, tuple(limit.batch_size for limit in limits), threads, limits=tuple(limits))

    def measure(self, dense: Path, pruned: Path, requests: RequestCycles, seed: int) -> Estimate:
        limits = {limit.batch_size: limit.milliseconds for limit in self.limits}
        return measure_headroom(dense, pruned, requests, limits, self.threads, seed)

    @property
    def words(self) -> str:
        return f"at most {', '.join(map(str, self.limits))} on this machine"

    def describe(self, speed: Estimate) -> str:
        scale = self.limits[0].milliseconds if len(self.limits) == 1 else 1.0
        unit = "ms" if len(self.limits) == 1 else "of the limit that is hardest to meet"
        times = Estimate(*(scale / end for end in (speed.estimate, speed.high, speed.low)))
        return f"{format_estimate(times, '.3g')} {unit} ({self.conditions})"

    @property
    def conditions(self) -> str:
        """The batch sizes, the threads and the processor to which a time refers."""
        return f"{self._format_sizes('batch size')}, {self._format_threads()} of {read_cpu_name()}"
