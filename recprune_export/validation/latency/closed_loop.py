"""Closed-loop latency: backends are interleaved in one process, so that disturbances of the machine hit all of them.

Requests take turns as well (`request_cycle.py`): in each round all backends answer the next one.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import cycle, islice
from typing import Any

import numpy as np

from recprune_export.evidence import Estimate
from recprune_export.progress import progress_bar
from recprune_export.validation.edge_requests import RequestArrays
from recprune_export.validation.latency.latency_constants import MAX_ROUNDS, MIN_ROUNDS, WARM_UP
from recprune_export.validation.latency.request_cycle import RequestCycle, RequestCycles
from recprune_export.validation.latency.statistics import (
    DISTRIBUTION,
    Outliers,
    Percentiles,
    distribution,
    outliers,
    percentile_intervals,
    percentiles,
    ratio_of_medians,
)


def as_it_is(request: RequestArrays) -> RequestArrays:
    """Return the request unchanged."""
    return request


@dataclass(frozen=True)
class Backend:
    """A named function that answers a request; the answer is ignored.

    `prepare` converts a request to the form that `run` takes, outside the timed region.
    """

    name: str
    run: Callable[[RequestArrays], object]
    prepare: Callable[[RequestArrays], RequestArrays] = as_it_is


@dataclass(frozen=True)
class LatencyReport:
    """Milliseconds by round in `samples[batch][backend]`.

    Round i of all backends ran side by side on the same request; `requests[batch]` different requests took turns.
    """

    samples: Mapping[int, Mapping[str, np.ndarray]]
    threads: int
    seed: int = 0
    requests: Mapping[int, int] = field(default_factory=dict)

    @property
    def backends(self) -> tuple[str, ...]:
        """The names of the backends, in the order of measurement."""
        return tuple(next(iter(self.samples.values())))

    def percentiles(self, batch: int, name: str) -> Percentiles:
        """Return p50, p95 and p99 of one backend."""
        return percentiles(self.samples[batch][name])

    def intervals(self, batch: int, name: str) -> dict[str, Estimate]:
        """Return p50, p95 and p99 of one backend with their 95 % intervals."""
        return percentile_intervals(self.samples[batch][name], self.seed)

    def outliers(self, batch: int, name: str) -> Outliers:
        """Return the rounds of one backend that took far longer than the others; all percentiles include them."""
        return outliers(self.samples[batch][name])

    def ratio(self, batch: int, slow: str, fast: str) -> Estimate:
        """Return the ratio of the medians of `slow` and `fast`."""
        return ratio_of_medians(self.samples[batch][slow], self.samples[batch][fast], self.seed)

    def slower(self, candidate: str, reference: str) -> tuple[str, ...]:
        """Return a sentence for each batch at which `candidate` is significantly slower than `reference`."""
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
        """Return plain JSON values: percentiles of all backends, and their ratios to the last one."""
        last = self.backends[-1]
        return {
            "threads": self.threads,
            "percents": list(DISTRIBUTION),
            "rounds": {str(batch): len(of[last]) for batch, of in self.samples.items()},
            "requests": {str(batch): count for batch, count in self.requests.items()},
            "milliseconds": {
                str(batch): {name: self._summary(batch, name) for name in self.backends} for batch in self.samples
            },
            "ratios": {
                str(batch): {f"{name} / {last}": asdict(self.ratio(batch, name, last)) for name in self.backends[:-1]}
                for batch in self.samples
            },
        }

    def _summary(self, batch: int, name: str) -> dict[str, Any]:
        intervals = {key: [estimate.low, estimate.high] for key, estimate in self.intervals(batch, name).items()}
        outlier_report = self.outliers(batch, name)
        return {
            **asdict(self.percentiles(batch, name)),
            "intervals": intervals,
            "distribution": distribution(self.samples[batch][name]),
            "outliers": {**asdict(outlier_report), "largest": [list(pair) for pair in outlier_report.largest]},
        }


def measure_latency(
    backends: Sequence[Backend],
    requests: RequestCycles,
    *,
    threads: int,
    seconds: float = 4.0,
    seed: int = 0,
    description: str = "Measuring latency",
) -> LatencyReport:
    """Time every backend on the requests of each batch size, for about `seconds` each.

    In a round each backend runs once, in random order, on the same request; the next round has the next request.
    `threads` is only recorded: the backends must already use that number.
    """
    rng = np.random.default_rng(seed)
    samples = {}
    with progress_bar(description, len(requests)) as advance:
        for batch, cycle in requests.items():
            samples[batch] = measure_interleaved(backends, cycle, seconds, rng)
            advance("")
    return LatencyReport(samples, threads, seed, {batch: len(cycle) for batch, cycle in requests.items()})


def measure_interleaved(
    backends: Sequence[Backend],
    request_cycle: RequestCycle,
    seconds: float,
    rng: np.random.Generator,
    min_rounds: int = MIN_ROUNDS,
    max_rounds: int = MAX_ROUNDS,
) -> dict[str, np.ndarray]:
    """Warm up, then run rounds for about `seconds`; return milliseconds [rounds] by backend.

    Each round, including those of the warm-up, has the next request of the cycle.
    """
    prepared, numbers = warm_up(backends, request_cycle)
    times: dict[str, list[int]] = {backend.name: [] for backend in backends}
    with without_garbage_collection():
        start, rounds = time.perf_counter(), 0
        while rounds < min_rounds or (rounds < max_rounds and time.perf_counter() - start < seconds):
            number = next(numbers)
            for position in rng.permutation(len(backends)):
                backend, request = backends[position], prepared[position][number]
                before = time.perf_counter_ns()
                backend.run(request)
                times[backend.name].append(time.perf_counter_ns() - before)
            rounds += 1
    return {name: np.array(values) / 1e6 for name, values in times.items()}


def warm_up(
    backends: Sequence[Backend], request_cycle: RequestCycle
) -> tuple[list[list[RequestArrays]], Iterator[int]]:
    """Run a few rounds; return the prepared requests of each backend, and an iterator over the numbers of the next ones."""
    prepared = [[backend.prepare(request) for request in request_cycle] for backend in backends]
    numbers = cycle(range(len(request_cycle)))
    for number in islice(numbers, WARM_UP):
        for backend, backend_requests in zip(backends, prepared, strict=True):
            backend.run(backend_requests[number])
    return prepared, numbers


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Disable Python's garbage collector inside the block."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
