"""Turns: a backend answers several requests in a row, the first of them untimed, before the next backend does.

The first call after another model takes up to five times as long as the tenth: code, branch predictions and weights are no
longer in the caches. With single calls, the measured time of a backend would depend on the previous backend in the round.
"""

import gc
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from math import log, pi
from statistics import median
from typing import NamedTuple, Protocol

import numpy as np

from recprune_export.mapped_pages import has_registered_maps, limit_mapped_pages, raise_page_limit
from recprune_export.validation.edge_requests import RequestArrays
from recprune_export.validation.latency.latency_constants import (
    BUSY_PATIENCE,
    COLD_BYTES,
    COLD_SECONDS,
    CPU_BLOCK,
    FEWEST_CALLS,
    FEWEST_ROUGH_CALLS,
    MAX_ROUNDS,
    MIN_ROUNDS,
    MIN_TURNS,
    MOST_ROUGH_TIMED,
    PRECISE_TURNS,
    ROUGH_PRECISION,
    TURN_CALLS,
    TURN_SECONDS,
    WARM_UP,
    WARM_UP_SECONDS,
)
from recprune_export.validation.latency.request_cycle import RequestCycle

Clock = Callable[[], int]  # nanoseconds


def as_it_is(request: RequestArrays) -> RequestArrays:
    """Return the request unchanged."""
    return request


class RenewableSession(Protocol):
    """Weights in memory that can be freed and loaded again."""

    def free(self) -> None: ...

    def load(self) -> None: ...


@dataclass(frozen=True)
class Backend:
    """A named function that answers a request; the answer is ignored.

    `prepare` converts a request to the form that `run` takes, outside the timed region. `session` is the session that `run` uses, if it
    can be loaded again.
    """

    name: str
    run: Callable[[RequestArrays], object]
    prepare: Callable[[RequestArrays], RequestArrays] = as_it_is
    session: RenewableSession | None = None


class TurnTimes(NamedTuple):
    """Milliseconds of a call [rounds] by backend: the wall-clock time of each call, and the mean CPU time of its block.

    A backend for which a rough ratio suffices has fewer rounds than the others. `turns` counts the turns of each.
    """

    wall: dict[str, np.ndarray]
    cpu: dict[str, np.ndarray]
    turns: dict[str, int]


PreparedRequests = Mapping[str, RequestCycle]  # by the name of a backend


def prepare_requests(backends: Sequence[Backend], request_cycle: RequestCycle) -> PreparedRequests:
    """Return the requests of a cycle in the form that each backend takes."""
    return {backend.name: [backend.prepare(request) for request in request_cycle] for backend in backends}


def measure_interleaved(
    backends: Sequence[Backend],
    request_cycle: RequestCycle,
    seconds: float,
    rng: np.random.Generator,
    min_rounds: int = MIN_ROUNDS,
    max_rounds: int = MAX_ROUNDS,
) -> dict[str, np.ndarray]:
    """Return wall-clock milliseconds [rounds] by backend (see `measure_turns`)."""
    prepared = prepare_requests(backends, request_cycle)
    return measure_turns(backends, prepared, seconds, rng, min_rounds, max_rounds).wall


@raise_page_limit()
def measure_turns(
    backends: Sequence[Backend],
    prepared: PreparedRequests,
    seconds: float,
    rng: np.random.Generator,
    min_rounds: int = MIN_ROUNDS,
    max_rounds: int = MAX_ROUNDS,
    cpu_clock: Clock = time.thread_time_ns,
    *,
    precision: float | None = None,
    rough: Collection[str] = (),
) -> TurnTimes:
    """Warm up, then let the backends take turns, in random order, for about `seconds`.

    In a turn a backend processes the next few requests of the cycle, the same for all backends, after an untimed run of the preceding
    ones. With a `precision` the measurement ends earlier, as soon as the relative standard error of the ratio of each backend to the last
    one is at most `precision`. A backend in `rough` has shorter turns, and stops when the error of its ratio is a quarter of the distance
    from 1, or ROUGH_PRECISION if that is less: enough to determine which of the two is faster. In this case `seconds` are CPU time, so
    that a busy machine gives the same number of rounds, but at most BUSY_PATIENCE times as many seconds of wall-clock time.
    """
    times = warm_up(backends, prepared)
    untimed, timed = count_calls(max(of for name, of in times.items() if name not in rough))
    takers = [
        _TurnTaker(backend, prepared[backend.name], untimed, timed, times[backend.name], cpu_clock)
        if backend.name not in rough
        else _TurnTaker(
            backend,
            prepared[backend.name],
            *count_rough_calls(times[backend.name], timed),
            times[backend.name],
            cpu_clock,
        )
        for backend in backends
    ]
    last, active = takers[-1], list(takers)
    fewest = min(max(min_rounds, MIN_TURNS * timed), max_rounds)
    with without_garbage_collection():
        is_over = _start_budget(seconds, cpu_clock, 1.0 if precision is None else BUSY_PATIENCE)
        while True:
            first = len(last.wall)
            for position in rng.permutation(len(active)):
                active[position].take_turn(first, max_rounds - first)
            rounds, over = len(last.wall), is_over()
            imprecise = [taker for taker in active[:-1] if not _is_precise(taker, last, precision, rough)]
            if rounds >= max_rounds or (rounds >= fewest and (over or not imprecise)):
                break
            active = [
                taker
                for taker in active
                if taker.backend.name not in rough
                or len(taker.medians) < MIN_TURNS
                or not (over or taker not in imprecise)
            ]
    return TurnTimes(
        {taker.backend.name: np.array(taker.wall) / 1e6 for taker in takers},
        {taker.backend.name: np.array(taker.cpu) / 1e6 for taker in takers},
        {taker.backend.name: len(taker.medians) for taker in takers},
    )


def _start_budget(seconds: float, cpu_clock: Clock, patience: float) -> Callable[[], bool]:
    """Return a function that returns whether `seconds` have passed by both clocks, or `patience` times as many by the wall clock."""
    wall_start, cpu_start = time.perf_counter(), cpu_clock()

    def is_over() -> bool:
        wall, cpu = time.perf_counter() - wall_start, (cpu_clock() - cpu_start) / 1e9
        return wall >= patience * seconds or min(wall, cpu) >= seconds

    return is_over


class _TurnTaker:
    """A backend, the number of calls in its turn, and its times so far: ns of each call, and the median of each turn."""

    def __init__(
        self, backend: Backend, requests: RequestCycle, untimed: int, timed: int, call_seconds: float, cpu_clock: Clock
    ) -> None:
        self.backend, self._requests, self._untimed, self._timed = backend, requests, untimed, timed
        self._cpu_clock = cpu_clock
        self._block = max(min(round(CPU_BLOCK / call_seconds), timed), 1)
        self._overhead = _measure_overhead(cpu_clock, self._block)
        self.wall: list[int] = []
        self.cpu: list[float] = []
        self.medians: list[float] = []

    def take_turn(self, first: int, most: int) -> None:
        """Process up to `most` requests from number `first` on, after an untimed run of the preceding ones."""
        limit_mapped_pages()
        calls = min(self._timed, most)
        requests = [self._requests[n % len(self._requests)] for n in range(first - self._untimed, first + calls)]
        for request in requests[: self._untimed]:
            self.backend.run(request)
        wall, cpu = _run_timed(self.backend.run, requests[self._untimed :], self._cpu_clock, self._block)
        self.wall += wall
        self.cpu += [max(cpu_time - self._overhead, 0.0) for cpu_time in cpu]
        self.medians.append(median(wall))


def _is_precise(taker: _TurnTaker, last: _TurnTaker, precision: float | None, rough: Collection[str]) -> bool:
    """Return whether the turns so far give the ratio to the last backend precisely enough."""
    if precision is None or len(taker.medians) < PRECISE_TURNS:
        return False
    log_ratio, error = estimate_log_ratio(taker.medians, last.medians[: len(taker.medians)])
    if taker.backend.name in rough:
        precision = max(precision, min(abs(log_ratio) / 4, ROUGH_PRECISION))
    return error <= precision


def estimate_log_ratio(above: Sequence[float], below: Sequence[float]) -> tuple[float, float]:
    """Return the logarithm of the ratio of two backends and its standard error, from the medians of their turns.

    Both use medians over turns, which are robust to a few disturbed turns. Time and memory are linear in the turns.

    >>> estimate_log_ratio([2.0, 2.0, 2.0], [1.0, 1.0, 9.0])
    (0.6931471805599453, 0.0)
    """
    logs = [log(slow / fast) for slow, fast in zip(above, below, strict=True)]
    center = median(logs)
    spread = median(abs(value - center) for value in logs) * 1.4826  # of a normal distribution: its standard deviation
    return center, (pi / 2 / len(logs)) ** 0.5 * spread


@raise_page_limit()
def measure_cold(
    backends: Sequence[Backend],
    prepared: PreparedRequests,
    rounds: int,
    rng: np.random.Generator,
    other_memory: np.ndarray,
    seconds: float = COLD_SECONDS,
) -> dict[str, np.ndarray]:
    """Return milliseconds [rounds] by backend of calls that each come after all of `other_memory` was read.

    If calls take long, it ends after `seconds` of CPU time, but not before two rounds.
    """
    times: dict[str, list[int]] = {backend.name: [] for backend in backends}
    with without_garbage_collection():
        start = time.thread_time()
        for number in range(rounds):
            if number >= 2 and time.thread_time() - start >= seconds:
                break
            for position in rng.permutation(len(backends)):
                backend = backends[position]
                requests = prepared[backend.name]
                other_memory.sum()
                request = requests[number % len(requests)]
                times[backend.name] += _run_timed(backend.run, [request], time.thread_time_ns)[0]
    return {name: np.array(values) / 1e6 for name, values in times.items()}


def make_other_memory() -> np.ndarray:
    """Return COLD_BYTES of memory that is not zero, because zeros share one page."""
    return np.ones(COLD_BYTES // 8)


def count_calls(slowest: float, fewest: int = FEWEST_CALLS) -> tuple[int, int]:
    """Return the numbers of untimed and timed calls of a turn, if a call of the slowest backend takes `seconds`.

    >>> count_calls(25e-6), count_calls(5e-3), count_calls(1.0)
    ((8, 16), (2, 4), (1, 3))
    """
    calls = min(max(int(TURN_SECONDS / max(slowest, 1e-9)), fewest), TURN_CALLS)
    untimed = max(calls // 3, 1)
    return untimed, calls - untimed


def count_rough_calls(call_seconds: float, most: int) -> tuple[int, int]:
    """Return the numbers of untimed and timed calls of a turn of a backend whose ratio may be rough.

    The number of untimed calls is that of other backends: with half of them PyTorch would seem up to 17 % slower.

    >>> count_rough_calls(1e-3, 16), count_rough_calls(0.1, 16)
    ((8, 6), (1, 1))
    """
    untimed, timed = count_calls(call_seconds, FEWEST_ROUGH_CALLS)
    return untimed, min(timed, MOST_ROUGH_TIMED, most)


def warm_up(backends: Sequence[Backend], prepared: PreparedRequests) -> dict[str, float]:
    """Make each backend process WARM_UP requests, or two if they take long; return the seconds of its fastest call.

    If a model may be in a mapped file, each backend first processes all requests once: earlier stages have read the pages of
    some models but not of others, and the first call that reads a page takes longer.
    """
    if has_registered_maps():
        for backend in backends:
            _map_pages(backend, prepared[backend.name])
    return {backend.name: _warm_up_one(backend, prepared[backend.name]) for backend in backends}


def _map_pages(backend: Backend, requests: RequestCycle) -> None:
    for request in requests:
        limit_mapped_pages()
        backend.run(request)


def _warm_up_one(backend: Backend, requests: RequestCycle) -> float:
    start, shortest = time.thread_time(), []
    for number, request in enumerate(islice(cycle(requests), WARM_UP)):
        if number >= 2 and time.thread_time() - start >= WARM_UP_SECONDS:
            break
        shortest += _run_timed(backend.run, [request], time.thread_time_ns)[0]
    return min(shortest) / 1e9


def _run_timed(
    run: Callable[[RequestArrays], object], requests: Sequence[RequestArrays], cpu_clock: Clock, block: int = 1
) -> tuple[list[int], list[float]]:
    """Return the wall-clock nanoseconds of each call, and the CPU time, as means of blocks of calls."""
    wall: list[int] = []
    cpu: list[float] = []
    has_maps = has_registered_maps()
    for first in range(0, len(requests), block):
        neighbors = requests[first : first + block]
        if has_maps:
            limit_mapped_pages()
        start = cpu_clock()
        for request in neighbors:
            before = time.perf_counter_ns()
            run(request)
            wall.append(time.perf_counter_ns() - before)
        cpu += [(cpu_clock() - start) / len(neighbors)] * len(neighbors)
    return wall, cpu


def _measure_overhead(cpu_clock: Clock, block: int) -> float:
    """Return the CPU time, in ns per call, of the loop and the clocks of `_run_timed`."""
    blocks = [_run_timed(as_it_is, [{}] * block, cpu_clock, block)[1][0] for _ in range(20)]
    return float(np.median(blocks))


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
