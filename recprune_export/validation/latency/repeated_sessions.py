"""Contestants made anew several times: where a session's weights come to lie in memory is luck, and luck must average out.

Two sessions of one and the same 76 MB model differ by 5 % (standard deviation) at batch 1 for as long as they live, and
the one that was loaded second is faster by 3 %. No number of rounds tells that from a slower model; new sessions, loaded
in one order and then in the other, do.
"""

from collections.abc import Callable, Mapping

import numpy as np

from recprune_export.validation.latency.closed_loop import FEWEST, MOST, Contestant, take_turns
from recprune_export.validation.latency.request_cycle import Rotations

QUANTILE = 0.1  # of the times of one seating: what a busy machine disturbs least, and not yet a matter of single rounds

Makers = Mapping[str, Callable[[], Contestant]]
Seating = dict[int, dict[str, np.ndarray]]  # batch -> contestant -> milliseconds [rounds]


def measure_seatings(
    makers: Makers,
    requests: Rotations,
    *,
    count: int,
    seconds: float,
    rng: np.random.Generator,
    fewest: int = FEWEST,
    most: int = MOST,
    advance: Callable[[str], None] = lambda text: None,
) -> list[Seating]:
    """Make all contestants, let them take turns on each batch size for about `seconds`, drop them; `count` times.

    The order in which they are made is that of `makers`, then the reverse, and so on.
    """
    found = []
    for number in range(count):
        order = list(makers)[:: 1 if number % 2 == 0 else -1]
        found.append(_seat([makers[name] for name in order], requests, seconds, rng, fewest, most))
        advance("")
    return found


def _seat(
    makers: list[Callable[[], Contestant]],
    requests: Rotations,
    seconds: float,
    rng: np.random.Generator,
    fewest: int,
    most: int,
) -> Seating:
    """One seating. A function, so that its sessions are gone before those of the next one take their memory."""
    contestants = [make() for make in makers]
    return {batch: take_turns(contestants, each, seconds, rng, fewest, most) for batch, each in requests.items()}


def typical_time(times: np.ndarray) -> float:
    """Return the tenth percentile of one contestant's times in one seating."""
    return float(np.quantile(times, QUANTILE))


def log_ratio(seating: Mapping[str, np.ndarray], above: str, below: str) -> float:
    """Return the logarithm of how many times longer `above` takes than `below`, at one batch size of one seating."""
    return float(np.log(typical_time(seating[above]) / typical_time(seating[below])))
