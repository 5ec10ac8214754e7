"""Latency, open loop: requests arrive when they like, and wait while the one before them is answered.

In a closed loop a slow answer delays the next question, and the waiting of users is never seen ("coordinated
omission"). Here the arrivals are drawn beforehand, as a Poisson process, and each latency counts from the arrival. Each
arrival asks for the next request of a rotation.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from recprune_export.progress import progress_bar
from recprune_export.validation.edge_requests import RequestArrays
from recprune_export.validation.latency.closed_loop import Backend, warm_up, without_garbage_collection
from recprune_export.validation.latency.request_cycle import RequestCycles
from recprune_export.validation.latency.statistics import Percentiles, outliers, percentile_intervals, percentiles

TURN = 1.0  # seconds of arrivals that one contestant answers before it is the next one's turn
FEWEST_ARRIVALS = 20  # in a turn, however rare they are
PATIENCE = 3.0  # turns; a contestant that needs longer for the arrivals of one is stopped
SPIN = 500e-6  # seconds before an arrival from which on the clock is watched: sleeping overshoots


@dataclass(frozen=True)
class OpenLoopTimes:
    """Milliseconds of each request: `latency` from its arrival to its answer, `service` from its start to its answer."""

    latency: np.ndarray
    service: np.ndarray

    def utilization(self, qps: float) -> float:
        """Return the share of the time that it is busy; at 1 and above the queue grows without end."""
        return float(self.service.mean()) / 1e3 * qps


@dataclass(frozen=True)
class OpenLoopReport:
    """`served[batch][contestant]`, each as the one server of a queue at which `qps` requests arrive in a second."""

    times: Mapping[int, Mapping[str, OpenLoopTimes]]
    qps: float
    threads: int
    seed: int = 0

    @property
    def backends(self) -> tuple[str, ...]:
        """Names, in the order given."""
        return tuple(next(iter(self.times.values())))

    def percentiles(self, batch: int, name: str) -> Percentiles:
        """Return p50, p95 and p99 of one contestant's latency, waiting included."""
        return percentiles(self.times[batch][name].latency)

    def saturated(self, batch: int, name: str) -> bool:
        """Say whether requests arrive faster than they can be answered: its latency is then that of a growing queue."""
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
        served = self.times[batch][name]
        outside = outliers(served.latency)
        intervals = percentile_intervals(served.latency, self.seed)
        return {
            **asdict(self.percentiles(batch, name)),
            "intervals": {key: [found.low, found.high] for key, found in intervals.items()},
            "outliers": {**asdict(outside), "largest": [list(pair) for pair in outside.largest]},
            "requests": len(served.latency),
            "utilisation": served.utilization(self.qps),
            "saturated": self.saturated(batch, name),
        }


def measure_open_loop(
    backends: Sequence[Backend],
    requests: RequestCycles,
    *,
    qps: float,
    threads: int,
    seconds: float = 4.0,
    seed: int = 0,
) -> OpenLoopReport:
    """Let each contestant serve `qps` arrivals a second of each batch size, for about `seconds` each.

    Contestants take turns of a second or more, in random order, and get the same arrivals, which ask for the same, in a turn.
    """
    rng = np.random.default_rng(seed)
    turns = max(2, round(seconds / max(TURN, FEWEST_ARRIVALS / qps)))
    served = {}
    with progress_bar(f"Serving {qps:g} requests a second", len(requests) * turns) as advance:
        for batch, rotation in requests.items():
            taken, numbers = warm_up(backends, rotation)
            found: dict[str, list[tuple[float, float]]] = {contestant.name: [] for contestant in backends}
            for _ in range(turns):
                arrivals = poisson_arrivals(qps, max(TURN, FEWEST_ARRIVALS / qps), rng)
                asked = list(islice(numbers, len(arrivals)))
                for position in rng.permutation(len(backends)):
                    contestant, own = backends[position], taken[position]
                    found[contestant.name] += serve(contestant, [own[number] for number in asked], arrivals)
                advance("")
            served[batch] = {name: OpenLoopTimes(*np.array(pairs).T * 1e3) for name, pairs in found.items()}
    return OpenLoopReport(served, qps, threads, seed)


def poisson_arrivals(qps: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Return the times, in seconds, of about qps · seconds arrivals with exponential gaps."""
    return np.cumsum(rng.exponential(1 / qps, size=max(FEWEST_ARRIVALS, round(qps * seconds))))


def serve(backend: Backend, requests: Sequence[RequestArrays], arrivals: np.ndarray) -> list[tuple[float, float]]:
    """Answer the request of each arrival, first come first served; return (latency, service) in seconds.

    `requests` are such as `backend` takes, one for each arrival. Stops early where the contestant needs several times
    longer than the arrivals take.
    """
    found = []
    with without_garbage_collection():
        origin = time.perf_counter()
        give_up = PATIENCE * arrivals[-1]
        for arrival, request in zip(arrivals, requests, strict=True):
            start = _wait_until(origin, arrival)
            if start > give_up:
                break
            backend.run(request)
            end = time.perf_counter() - origin
            found.append((end - arrival, end - start))
    return found


def _wait_until(origin: float, moment: float) -> float:
    """Wait, unless the moment has passed; return the time since `origin`."""
    left = moment - (time.perf_counter() - origin)
    if left > SPIN:
        time.sleep(left - SPIN)
    while (now := time.perf_counter() - origin) < moment:
        pass
    return now
