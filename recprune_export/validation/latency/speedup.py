"""The speed-up of the headline: pruned ONNX against dense ONNX at one batch size, read from a latency section."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from recprune_export.codec import ToDictMixin
from recprune_export.evidence import Estimate
from recprune_export.number_formats import format_speed, orient_speed
from recprune_export.validation.latency.backends import DENSE_ONNX, PRUNED_ONNX
from recprune_export.validation.latency.closed_loop import WALL

HEADLINE_BATCH = 256  # the headline has the largest batch size up to this one
RATIO = f"{DENSE_ONNX} / {PRUNED_ONNX}"


@dataclass(frozen=True)
class Speedup(ToDictMixin):
    """How many times faster the pruned ONNX file is than the dense model, by the wall `clock` or by CPU time.

    `warm`: with warm caches; in earlier bundles other backends may have evicted data from the caches.
    """

    batch: int
    threads: int
    clock: str
    warm: bool
    ratio: Estimate

    @property
    def conditions(self) -> str:
        """Where the ratio was measured."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        clock = "" if self.clock == WALL else ", by CPU time, since the machine was busy"
        return f"dense ONNX at batch {self.batch}, {threads}{', warm caches' if self.warm else ''}{clock}"

    def __str__(self) -> str:
        comparison = ", compared with" if orient_speed(self.ratio)[1] == "as fast" else " than"
        return f"{format_speed(self.ratio)}{comparison} {self.conditions}"


def find_speedup(latency: Mapping[str, Any]) -> Speedup | None:
    """Return the speed-up of the latency section of a manifest; None if the dense file was not measured."""
    ratios = {batch: by_name[RATIO] for batch, by_name in latency.get("ratios", {}).items() if RATIO in by_name}
    if not ratios:
        return None
    batch = choose_batch(ratios)
    ratio = Estimate(*(ratios[batch][end] for end in ("estimate", "low", "high")))
    return Speedup(int(batch), latency.get("threads", 1), latency.get("clock", WALL), "clock" in latency, ratio)


def choose_batch(batches: Iterable[str]) -> str:
    """Return the batch size of the headline: the largest up to HEADLINE_BATCH, or else the smallest.

    >>> choose_batch(["1", "32", "1024"]), choose_batch(["512"])
    ('32', '512')
    """
    numbers = [int(batch) for batch in batches]
    return str(max((number for number in numbers if number <= HEADLINE_BATCH), default=min(numbers)))
