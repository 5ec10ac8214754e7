"""Open-loop latency: requests arrive independently of the answers, and wait in a queue while an earlier one is processed.

In a closed loop a slow answer delays the next request, and the waiting time of users is never measured ("coordinated
omission"). Here arrivals are drawn beforehand from a Poisson process, and latency counts from the arrival. Each arrival
has the next request of a cycle.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np

from recprune_export.mapped_pages import raise_page_limit
from recprune_export.progress import progress_bar
from recprune_export.validation.edge_requests import RequestArrays
from recprune_export.validation.latency.latency_constants import FEWEST_ARRIVALS, PATIENCE, SPIN, TURN
from recprune_export.validation.latency.request_cycle import RequestCycles
from recprune_export.validation.latency.statistics import Percentiles, outliers, percentile_intervals, percentiles
from recprune_export.validation.latency.turns import Backend, prepare_requests, warm_up, without_garbage_collection


@dataclass(frozen=True)
class OpenLoopTimes:
    """Milliseconds of each request: `latency` from its arrival to its answer, `service` from its start to its answer."""

    latency: np.ndarray
    service: np.ndarray

    def utilization(self, qps: float) -> float:
        """Return the fraction of the time that the backend is busy; at 1 and above, the queue grows without bound."""
        return float(self.service.mean()) / 1e3 * qps


@dataclass(frozen=True)
class OpenLoopReport:
    """Times in `times[batch][backend]`, each backend the single server of a queue with `qps` arrivals per second."""

    times: Mapping[int, Mapping[str, OpenLoopTimes]]
    qps: float
    threads: int
    seed: int = 0

    @property
    def backends(self) -> tuple[str, ...]:
        """The names of the backends, in the order of measurement."""
        return tuple(next(iter(self.times.values())))

    def percentiles(self, batch: int, name: str) -> Percentiles:
        """Return p50, p95 and p99 of the latency of one backend, waiting included."""
        return percentiles(self.times[batch][name].latency)

    def saturated(self, batch: int, name: str) -> bool:
        """Return whether requests arrive faster than they are answered: the latency is then that of a growing queue."""
        return self.times[batch][name].utilization(self.qps) >= 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "qps": self.qps,
            "threads": self.threads,
            "milliseconds": {
                str(batch): {name: self._summary(batch, name) for name in self.backends} for batch in self.times
            },
        }

    def _summary(self, batch: int, name: str) -> dict[str, Any]:
        times = self.times[batch][name]
        outlier_report = outliers(times.latency)
        intervals = percentile_intervals(times.latency, self.seed)
        return {
            **asdict(self.percentiles(batch, name)),
            "intervals": {key: [estimate.low, estimate.high] for key, estimate in intervals.items()},
            "outliers": {**asdict(outlier_report), "largest": [list(pair) for pair in outlier_report.largest]},
            "requests": len(times.latency),
            "utilization": times.utilization(self.qps),
            "saturated": self.saturated(batch, name),
        }


@raise_page_limit()
def measure_open_loop(
    backends: Sequence[Backend],
    requests: RequestCycles,
    *,
    qps: float,
    threads: int,
    seconds: float = 4.0,
    seed: int = 0,
) -> OpenLoopReport:
    """Make each backend serve `qps` arrivals per second of each batch size, for about `seconds` each.

    Backends take turns of a second or more, in random order; in a turn all get the same arrivals and requests.
    """
    rng = np.random.default_rng(seed)
    turns = max(2, round(seconds / max(TURN, FEWEST_ARRIVALS / qps)))
    times = {}
    with progress_bar(f"Serving {qps:g} requests a second", len(requests) * turns) as advance:
        for batch, request_cycle in requests.items():
            prepared, numbers = prepare_requests(backends, request_cycle), cycle(range(len(request_cycle)))
            warm_up(backends, prepared)
            pairs_by_backend: dict[str, list[tuple[float, float]]] = {backend.name: [] for backend in backends}
            for _ in range(turns):
                arrivals = poisson_arrivals(qps, max(TURN, FEWEST_ARRIVALS / qps), rng)
                turn_numbers = list(islice(numbers, len(arrivals)))
                for position in rng.permutation(len(backends)):
                    backend = backends[position]
                    backend_requests = prepared[backend.name]
                    pairs_by_backend[backend.name] += serve(
                        backend, [backend_requests[number] for number in turn_numbers], arrivals
                    )
                advance("")
            times[batch] = {name: OpenLoopTimes(*np.array(pairs).T * 1e3) for name, pairs in pairs_by_backend.items()}
    return OpenLoopReport(times, qps, threads, seed)


def poisson_arrivals(qps: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return the times, in seconds, of about qps · seconds arrivals with exponential gaps."""
    return np.cumsum(rng.exponential(1 / qps, size=max(FEWEST_ARRIVALS, round(qps * seconds))))


def serve(backend: Backend, requests: Sequence[RequestArrays], arrivals: np.ndarray) -> list[tuple[float, float]]:
    """Process the request of each arrival, first come first served; return (latency, service) in seconds.

    `requests` are prepared for `backend`, one for each arrival. Stops early if the backend needs several times longer than the arrivals
    take.
    """
    pairs = []
    with without_garbage_collection():
        origin = time.perf_counter()
        give_up = PATIENCE * arrivals[-1]
        for arrival, request in zip(arrivals, requests, strict=True):
            start = _wait_until(origin, arrival)
            if start > give_up:
                break
            backend.run(request)
            end = time.perf_counter() - origin
            pairs.append((end - arrival, end - start))
    return pairs


def _wait_until(origin: float, moment: float) -> float:
    """Wait, unless the moment has passed; return the time since `origin`."""
    remaining = moment - (time.perf_counter() - origin)
    if remaining > SPIN:
        time.sleep(remaining - SPIN)
    while (now := time.perf_counter() - origin) < moment:
        pass
    return now
