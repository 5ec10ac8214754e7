"""Contestants made anew several times: where a session's weights come to lie in memory is luck, and luck must average out.

Two sessions of one and the same 76 MB model differ by 5 % (standard deviation) at batch 1 for as long as they live, and
the one that was loaded second is faster by 3 %. No number of rounds tells that from a slower model; new sessions, loaded
in one order and then in the other, do.
"""

from collections.abc import Callable, Mapping

import numpy as np

from recprune_export.validation.latency.closed_loop import MAX_ROUNDS, MIN_ROUNDS, Backend, measure_interleaved
from recprune_export.validation.latency.request_cycle import RequestCycles

QUANTILE = 0.1  # of the times of one seating: what a busy machine disturbs least, and not yet a matter of single rounds

BackendFactories = Mapping[str, Callable[[], Backend]]
SessionTimes = dict[int, dict[str, np.ndarray]]  # batch -> contestant -> milliseconds [rounds]


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
    """Make all contestants, let them take turns on each batch size for about `seconds`, drop them; `count` times.

    The order in which they are made is that of `factories`, then the reverse, and so on.
    """
    found = []
    for number in range(count):
        order = list(factories)[:: 1 if number % 2 == 0 else -1]
        found.append(_seat([factories[name] for name in order], requests, seconds, rng, min_rounds, max_rounds))
        advance("")
    return found


def _seat(
    makers: list[Callable[[], Backend]],
    requests: RequestCycles,
    seconds: float,
    rng: np.random.Generator,
    fewest: int,
    most: int,
) -> SessionTimes:
    """One seating. A function, so that its sessions are gone before those of the next one take their memory."""
    contestants = [make() for make in makers]
    return {
        batch: measure_interleaved(contestants, each, seconds, rng, fewest, most) for batch, each in requests.items()
    }


def typical_time(times: np.ndarray) -> float:
    """Return the tenth percentile of one contestant's times in one seating."""
    return float(np.quantile(times, QUANTILE))


def log_ratio(times: Mapping[str, np.ndarray], above: str, below: str) -> float:
    """Return the logarithm of how many times longer `above` takes than `below`, at one batch size of one seating."""
    return float(np.log(typical_time(times[above]) / typical_time(times[below])))
