"""Latency: contestants take turns in one process, so that what the machine does meanwhile hits all of them alike."""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recprune_export.progress import bar
from recprune_export.validation.requests import Request

WARM_UP = 5  # rounds
FEWEST, MOST = 50, 2000  # rounds
RESAMPLES = 2000
BLOCK = 8  # neighbouring rounds that are resampled together


@dataclass(frozen=True)
class Contestant:
    """Something that answers a request; the answer itself is not looked at."""

    name: str
    run: Callable[[Request], object]


@dataclass(frozen=True)
class Percentiles:
    """In milliseconds."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True)
class Ratio:
    """A ratio of two medians, and its 95 % confidence interval."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class LatencyReport:
    """`samples[batch][contestant]` holds milliseconds by round; round i of all contestants ran next to each other."""

    samples: Mapping[int, Mapping[str, np.ndarray]]
    threads: int
    seed: int = 0

    @property
    def contestants(self) -> tuple[str, ...]:
        """Names, in the order given."""
        return tuple(next(iter(self.samples.values())))

    def percentiles(self, batch: int, name: str) -> Percentiles:
        """Return p50, p95 and p99 of one contestant."""
        return Percentiles(*(float(p) for p in np.percentile(self.samples[batch][name], (50, 95, 99))))

    def ratio(self, batch: int, slow: str, fast: str) -> Ratio:
        """Return how many times longer `slow` takes than `fast`.

        The interval is a bootstrap over rounds, paired, in blocks: what disturbs a round disturbs its neighbours as
        well, and resampling single rounds would make the interval too narrow (Künsch 1989).
        """
        above, below = self.samples[batch][slow], self.samples[batch][fast]
        rounds = _resampled_rounds(len(above), np.random.default_rng(self.seed))
        ratios = np.median(above[rounds], axis=1) / np.median(below[rounds], axis=1)
        low, high = np.percentile(ratios, (2.5, 97.5))
        return Ratio(float(np.median(above) / np.median(below)), float(low), float(high))

    def slower(self, candidate: str, reference: str) -> tuple[str, ...]:
        """Return a sentence for each batch at which `candidate` is slower than `reference` beyond doubt."""
        sentences = []
        for batch in self.samples:
            ratio = self.ratio(batch, candidate, reference)
            if ratio.low > 1.0:
                sentences.append(
                    f"At batch {batch}, {candidate} takes {ratio.estimate:.2f} times as long as {reference} "
                    f"(95 % interval {ratio.low:.2f} to {ratio.high:.2f})."
                )
        return tuple(sentences)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: percentiles of all, and how many times slower each is than the last contestant."""
        last = self.contestants[-1]
        return {
            "threads": self.threads,
            "rounds": {str(batch): len(of[last]) for batch, of in self.samples.items()},
            "milliseconds": {
                str(batch): {name: vars(self.percentiles(batch, name)) for name in self.contestants}
                for batch in self.samples
            },
            "ratios": {
                str(batch): {f"{name} / {last}": vars(self.ratio(batch, name, last)) for name in self.contestants[:-1]}
                for batch in self.samples
            },
        }


def measure(
    contestants: Sequence[Contestant],
    requests: Mapping[int, Request],
    *,
    threads: int,
    seconds: float = 4.0,
    seed: int = 0,
) -> LatencyReport:
    """Time every contestant on the request of each batch size, for about `seconds` each.

    In a round each contestant runs once, in random order. `threads` is only stated: the contestants must have been set
    to it.
    """
    rng = np.random.default_rng(seed)
    samples = {}
    with bar("Measuring latency", len(requests)) as advance:
        for batch, request in requests.items():
            samples[batch] = _measure(contestants, request, seconds, rng)
            advance("")
    return LatencyReport(samples, threads, seed)


def _measure(
    contestants: Sequence[Contestant], request: Request, seconds: float, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    for _ in range(WARM_UP):
        for contestant in contestants:
            contestant.run(request)
    times: dict[str, list[int]] = {contestant.name: [] for contestant in contestants}
    collecting = gc.isenabled()
    gc.disable()
    try:
        start, rounds = time.perf_counter(), 0
        while rounds < FEWEST or (rounds < MOST and time.perf_counter() - start < seconds):
            for position in rng.permutation(len(contestants)):
                contestant = contestants[position]
                before = time.perf_counter_ns()
                contestant.run(request)
                times[contestant.name].append(time.perf_counter_ns() - before)
            rounds += 1
    finally:
        if collecting:
            gc.enable()
    return {name: np.array(values) / 1e6 for name, values in times.items()}


def _resampled_rounds(count: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of rounds, [RESAMPLES, about count], drawn as blocks of neighbours."""
    block = min(BLOCK, count)
    starts = rng.integers(0, count - block + 1, size=(RESAMPLES, -(-count // block)))
    return (starts[:, :, None] + np.arange(block)).reshape(RESAMPLES, -1)
