"""Turns: a backend answers several requests in a row, the first of them untimed, before the next backend does.

The first call after another model takes up to five times as long as the tenth: code, branch predictions and weights are no
longer in the caches. Timed in single calls, a backend would be as slow as its neighbors in the round make it.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from typing import NamedTuple, Protocol

import numpy as np

from recprune_export.validation.edge_requests import RequestArrays
from recprune_export.validation.latency.latency_constants import (
    COLD_BYTES,
    CPU_BLOCK,
    MAX_ROUNDS,
    MIN_ROUNDS,
    MIN_TURNS,
    TURN_CALLS,
    TURN_SECONDS,
    WARM_UP,
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

    `prepare` converts a request to the form that `run` takes, outside the timed region. `session` holds what `run` uses,
    where it can be loaded again.
    """

    name: str
    run: Callable[[RequestArrays], object]
    prepare: Callable[[RequestArrays], RequestArrays] = as_it_is
    session: RenewableSession | None = None


class TurnTimes(NamedTuple):
    """Milliseconds of a call [rounds] by backend: of each call by the wall clock, and the mean CPU time of its block."""

    wall: dict[str, np.ndarray]
    cpu: dict[str, np.ndarray]


def measure_interleaved(
    backends: Sequence[Backend],
    request_cycle: RequestCycle,
    seconds: float,
    rng: np.random.Generator,
    min_rounds: int = MIN_ROUNDS,
    max_rounds: int = MAX_ROUNDS,
) -> dict[str, np.ndarray]:
    """Return milliseconds by the wall clock [rounds] by backend (see `measure_turns`)."""
    return measure_turns(backends, request_cycle, seconds, rng, min_rounds, max_rounds).wall


def measure_turns(
    backends: Sequence[Backend],
    request_cycle: RequestCycle,
    seconds: float,
    rng: np.random.Generator,
    min_rounds: int = MIN_ROUNDS,
    max_rounds: int = MAX_ROUNDS,
    cpu_clock: Clock = time.thread_time_ns,
) -> TurnTimes:
    """Warm up, then let the backends take turns, in random order, for about `seconds`.

    In a turn a backend answers the next few requests of the cycle, and all backends the same ones; before them it answers the
    preceding ones untimed. Round i of all backends has the same request.
    """
    prepared, call_seconds = warm_up(backends, request_cycle)
    untimed, timed = count_calls(max(call_seconds))
    blocks = [max(min(round(CPU_BLOCK / call), timed), 1) for call in call_seconds]
    overheads = [_measure_overhead(cpu_clock, block) for block in blocks]
    wall: dict[str, list[int]] = {backend.name: [] for backend in backends}
    cpu: dict[str, list[float]] = {backend.name: [] for backend in backends}
    with without_garbage_collection():
        start, rounds = time.perf_counter(), 0
        fewest = min(max(min_rounds, MIN_TURNS * timed), max_rounds)
        while rounds < fewest or (rounds < max_rounds and time.perf_counter() - start < seconds):
            calls = min(timed, max_rounds - rounds)
            numbers = [number % len(request_cycle) for number in range(rounds - untimed, rounds + calls)]
            for position in rng.permutation(len(backends)):
                backend, requests = backends[position], [prepared[position][number] for number in numbers]
                for request in requests[:untimed]:
                    backend.run(request)
                times, cpu_times = _run_timed(backend.run, requests[untimed:], cpu_clock, blocks[position])
                wall[backend.name] += times
                cpu[backend.name] += [max(cpu_time - overheads[position], 0.0) for cpu_time in cpu_times]
            rounds += calls
    return TurnTimes(*({name: np.array(values) / 1e6 for name, values in times.items()} for times in (wall, cpu)))


def measure_cold(
    backends: Sequence[Backend], request_cycle: RequestCycle, rounds: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Return milliseconds [rounds] by backend of calls that each come after COLD_BYTES of other memory were read."""
    prepared = [[backend.prepare(request) for request in request_cycle] for backend in backends]
    other_memory = np.ones(COLD_BYTES // 8)  # not zeros, which share one page of memory
    times: dict[str, list[int]] = {backend.name: [] for backend in backends}
    with without_garbage_collection():
        for number in range(rounds):
            for position in rng.permutation(len(backends)):
                backend, request = backends[position], prepared[position][number % len(request_cycle)]
                other_memory.sum()
                times[backend.name] += _run_timed(backend.run, [request], time.thread_time_ns)[0]
    return {name: np.array(values) / 1e6 for name, values in times.items()}


def count_calls(slowest: float) -> tuple[int, int]:
    """Return the untimed and the timed calls of a turn, where a call of the slowest backend takes so many seconds.

    >>> count_calls(25e-6), count_calls(5e-3), count_calls(1.0)
    ((8, 16), (2, 4), (1, 1))
    """
    calls = min(max(int(TURN_SECONDS / max(slowest, 1e-9)), 2), TURN_CALLS)
    untimed = max(calls // 3, 1)
    return untimed, calls - untimed


def warm_up(backends: Sequence[Backend], request_cycle: RequestCycle) -> tuple[list[list[RequestArrays]], list[float]]:
    """Answer a few requests; return the prepared requests of each backend, and the seconds of its fastest call."""
    prepared = [[backend.prepare(request) for request in request_cycle] for backend in backends]
    shortest = [
        min(_run_timed(backend.run, list(islice(cycle(requests), WARM_UP)), time.thread_time_ns)[0])
        for backend, requests in zip(backends, prepared, strict=True)
    ]
    return prepared, [nanoseconds / 1e9 for nanoseconds in shortest]


def _run_timed(
    run: Callable[[RequestArrays], object], requests: Sequence[RequestArrays], cpu_clock: Clock, block: int = 1
) -> tuple[list[int], list[float]]:
    """Return nanoseconds of each call by the wall clock, and by the CPU clock, as means of blocks of calls."""
    wall: list[int] = []
    cpu: list[float] = []
    for first in range(0, len(requests), block):
        neighbors = requests[first : first + block]
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
