"""Repeated sessions: backends are recreated several times to average over the placement of weights in memory.

Two sessions of the same 76 MB model differ by 5 % (standard deviation) at batch 1 throughout their lifetime, and the session loaded
second is faster by 3 %. More rounds cannot separate that from a slower model; new sessions, loaded in one order and then in the other,
can.
"""

from collections.abc import Callable, Mapping

import numpy as np

from recprune_export.validation.latency.latency_constants import MAX_ROUNDS, MIN_ROUNDS, QUANTILE
from recprune_export.validation.latency.request_cycle import RequestCycles
from recprune_export.validation.latency.turns import Backend, measure_interleaved

BackendFactories = Mapping[str, Callable[[], Backend]]
SessionTimes = dict[int, dict[str, np.ndarray]]  # batch -> backend -> milliseconds [rounds]


def measure_repeated_sessions(
    factories: BackendFactories,
    requests: RequestCycles,
    *,
    count: int,
    seconds: float,
    rng: np.random.Generator,
    min_rounds: int = MIN_ROUNDS,
    max_rounds: int = MAX_ROUNDS,
    advance: Callable[[str], None] = lambda text: None,
) -> list[SessionTimes]:
    """Make all backends, time them interleaved on each batch size for about `seconds`, delete them; `count` times.

    They are made in the order of `factories`, then in reverse, and so on.
    """
    sessions = []
    for number in range(count):
        order = list(factories)[:: 1 if number % 2 == 0 else -1]
        sessions.append(
            _measure_sessions([factories[name] for name in order], requests, seconds, rng, min_rounds, max_rounds)
        )
        advance("")
    return sessions


def _measure_sessions(
    factories: list[Callable[[], Backend]],
    requests: RequestCycles,
    seconds: float,
    rng: np.random.Generator,
    min_rounds: int,
    max_rounds: int,
) -> SessionTimes:
    """Return the times of one set of sessions, which are freed on return, before the next set is made."""
    backends = [make() for make in factories]
    return {
        batch: measure_interleaved(backends, cycle, seconds, rng, min_rounds, max_rounds)
        for batch, cycle in requests.items()
    }


def typical_time(times: np.ndarray) -> float:
    """Return the tenth percentile of the times of one session."""
    return float(np.quantile(times, QUANTILE))


def log_ratio(times: Mapping[str, np.ndarray], above: str, below: str) -> float:
    """Return the logarithm of the ratio of the typical times of `above` and `below`, at one batch size."""
    return float(np.log(typical_time(times[above]) / typical_time(times[below])))
