"""Closed-loop latency: backends take turns in one process, so that disturbances of the machine affect all of them.

This is the only protocol for reported latencies: turns of several calls (`turns.py`), different requests (`request_cycle.py`), sessions
that are loaded again several times, wall-clock and CPU time, and separate measurements with cold caches.
"""

import resource
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from recprune_export.evidence import Estimate
from recprune_export.number_formats import format_estimate
from recprune_export.progress import progress_bar
from recprune_export.validation.latency.latency_constants import (
    CLOCKS_DIFFER,
    COLD_BYTES,
    COLD_ROUNDS,
    CPU_QUANTILE,
    MAX_ROUNDS,
    MAX_WAITING,
    MIN_ROUNDS,
    RATIO_PRECISION,
    SECONDS,
    SESSION_SETS,
)
from recprune_export.validation.latency.request_cycle import RequestCycles
from recprune_export.validation.latency.statistics import (
    DISTRIBUTION,
    Outliers,
    Percentiles,
    distribution,
    geometric_mean,
    outliers,
    percentile_intervals,
    percentiles,
    ratio_of_medians,
    ratio_over_sessions,
)
from recprune_export.validation.latency.turns import (
    Backend,
    make_other_memory,
    measure_cold,
    measure_turns,
    prepare_requests,
)

Samples = Mapping[int, Mapping[str, np.ndarray]]  # batch -> backend -> milliseconds [rounds]
WALL, CPU = "wall", "CPU"


@dataclass(frozen=True)
class LatencyReport:
    """Milliseconds by round in `samples[batch][backend]`, with warm caches.

    Round i of all backends ran side by side on the same request; `requests[batch]` different requests took turns. `cpu` has
    the CPU time of a call, in the same form, and `cold` times with cold caches. `sessions[batch]` and `cold_sessions[batch]`
    number the set of sessions of each round, by backend; `turns[batch]` counts the turns of each backend, and
    `preemptions[batch]` involuntary context switches. A backend for which a rough ratio suffices has fewer rounds, and no `cold` times.
    """

    samples: Samples
    threads: int
    seed: int = 0
    requests: Mapping[int, int] = field(default_factory=dict)
    cpu: Samples = field(default_factory=dict)
    cold: Samples = field(default_factory=dict)
    sessions: Samples = field(default_factory=dict)
    cold_sessions: Samples = field(default_factory=dict)
    turns: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    preemptions: Mapping[int, int] = field(default_factory=dict)

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
        """Return the ratio of the medians of `slow` and `fast` by `clock`, the clock that these measurements support."""
        return self.ratio_by(self.clock, batch, slow, fast)

    def ratio_by(self, clock: str, batch: int, slow: str, fast: str) -> Estimate:
        """Return the ratio of the medians by the wall clock, or of the quantiles CPU_QUANTILE of CPU time."""
        times, quantile = (self.cpu, CPU_QUANTILE) if clock == CPU else (self.samples, 0.5)
        return self._compare(times[batch], self.sessions.get(batch), slow, fast, quantile)

    def typical_time(self, batch: int, name: str) -> Estimate:
        """Return the time of a call of one backend by `clock`, in ms: its median, or the quantile CPU_QUANTILE of CPU time."""
        times, quantile = (self.cpu, CPU_QUANTILE) if self.clock == CPU else (self.samples, 0.5)
        if not _has_sets(self.sessions.get(batch)):
            return percentile_intervals(times[batch][name], self.seed)["p50"]
        sessions = self.sessions[batch][name]
        sets = [times[batch][name][sessions == number] for number in np.unique(sessions)]
        return geometric_mean([float(np.quantile(of, quantile)) for of in sets])

    def cold_ratio(self, batch: int, slow: str, fast: str) -> Estimate:
        """Return the ratio of the medians with cold caches, by the wall clock."""
        return self._compare(self.cold[batch], self.cold_sessions.get(batch), slow, fast)

    def _compare(
        self,
        times: Mapping[str, np.ndarray],
        sessions: Mapping[str, np.ndarray] | None,
        slow: str,
        fast: str,
        quantile: float = 0.5,
    ) -> Estimate:
        if sessions is None or not _has_sets(sessions):
            return ratio_of_medians(times[slow], times[fast], self.seed)
        return ratio_over_sessions(times[slow], times[fast], sessions[slow], sessions[fast], quantile)

    def cpu_time(self, batch: int, name: str) -> float:
        """Return the CPU time of a call of one backend, in ms: the quantile CPU_QUANTILE."""
        return float(np.quantile(self.cpu[batch][name], CPU_QUANTILE))

    @property
    def clock(self) -> str:
        """The clock of the ratios: WALL, or CPU if other processes took the core from a single thread."""
        return CPU if self.disturbances else WALL

    def waiting(self, batch: int) -> float:
        """Return the fraction of the time of the calls in which the thread did not run, for the most disturbed backend."""
        shares = (float(self.cpu[batch][name].sum() / self.samples[batch][name].sum()) for name in self.backends)
        return max(1.0 - min(shares), 0.0)

    @cached_property
    def disturbances(self) -> tuple[str, ...]:
        """Return a sentence for each batch size at which the machine was too busy for wall-clock times.

        With several threads, CPU time includes waiting, so it is unknown.
        """
        if self.threads != 1:
            return ()
        sentences = (self._find_disturbance(batch) for batch in self.cpu)
        return tuple(sentence for sentence in sentences if sentence)

    def _find_disturbance(self, batch: int) -> str | None:
        last = self.backends[-1]
        for name in self.backends[:-1]:
            wall, cpu = (self.ratio_by(clock, batch, name, last) for clock in (WALL, CPU))
            if wall.low > cpu.high * CLOCKS_DIFFER or cpu.low > wall.high * CLOCKS_DIFFER:
                return (
                    f"at batch {batch} {name} : {last} is {format_estimate(wall, '.2f')} by the wall clock and "
                    f"{format_estimate(cpu, '.2f')} by CPU time"
                )
        waiting = self.waiting(batch)
        if waiting <= MAX_WAITING:
            return None
        return f"at batch {batch} calls waited for a core {waiting:.0%} of their time"

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return a sentence if the machine was too busy for wall-clock times; otherwise nothing."""
        if not self.disturbances:
            return ()
        return (
            f"The machine was busy during the latency measurement, so ratios are computed from CPU time: {'; '.join(self.disturbances)}. "
            "The milliseconds include waiting times; measure again on an idle machine.",
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: percentiles of all backends, and their ratios to the last one."""
        last = self.backends[-1]
        values = {
            "threads": self.threads,
            "clock": self.clock,
            "percents": list(DISTRIBUTION),
            "rounds": {str(batch): len(of[last]) for batch, of in self.samples.items()},
            "turns": {str(batch): dict(of) for batch, of in self.turns.items()},
            "requests": {str(batch): count for batch, count in self.requests.items()},
            "milliseconds": {
                str(batch): {name: self._summary(batch, name) for name in self.backends} for batch in self.samples
            },
            "ratios": self.summarize_ratios(),
            "preemptions": {str(batch): count for batch, count in self.preemptions.items()},
        }
        if self.cpu:
            values["cpu_milliseconds"] = {
                str(batch): {name: self.cpu_time(batch, name) for name in self.backends} for batch in self.cpu
            }
            values["wall_ratios"] = self._ratios(self.samples, lambda *names: self.ratio_by(WALL, *names))
            values["cpu_ratios"] = self._ratios(self.cpu, lambda *names: self.ratio_by(CPU, *names))
        if self.cold:
            values["cold"] = {
                "bytes": COLD_BYTES,
                "milliseconds": _medians(self.cold),
                "ratios": self._ratios(self.cold, self.cold_ratio),
            }
        return values

    def summarize_ratios(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return plain JSON values: the ratio of each backend to the last one, by batch size and pair."""
        return self._ratios(self.samples, self.ratio)

    def _ratios(self, times: Samples, ratio: Any) -> dict[str, dict[str, dict[str, float]]]:
        last = self.backends[-1]
        return {
            str(batch): {f"{name} / {last}": asdict(ratio(batch, name, last)) for name in of if name != last}
            for batch, of in times.items()
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
    seconds: float = SECONDS,
    seed: int = 0,
    description: str = "Measuring latency",
    rough: Collection[str] = (),
    cold: bool = True,
) -> LatencyReport:
    """Time every backend on the requests of each batch size, for about `seconds` each, less if ratios are precise earlier.

    The time is divided among SESSION_SETS sets of sessions, loaded in one order and then in the other, the old ones freed
    first. In each set the backends take turns until the ratio of each to the last one has a relative standard error of
    RATIO_PRECISION, less than two sessions of one file differ; for those named in `rough`, a rough ratio suffices (see `measure_turns`).
    `threads` determines the threads whose CPU time is counted, and is recorded: the backends must use this number. Without `cold`, no
    calls with cold caches are timed.
    """
    rng = np.random.default_rng(seed)
    cpu_clock = time.thread_time_ns if threads == 1 else time.process_time_ns
    precise = [backend for backend in backends if backend.name not in rough]
    wall, cpu = ({batch: _empty(backends) for batch in requests} for _ in range(2))
    cold_times = {batch: _empty(precise) for batch in requests} if cold else {}
    turns = {batch: dict.fromkeys(_empty(backends), 0) for batch in requests}
    preemptions = dict.fromkeys(requests, 0)
    fewest, most = -(-MIN_ROUNDS // SESSION_SETS), -(-MAX_ROUNDS // SESSION_SETS)
    prepared = {batch: prepare_requests(backends, cycle) for batch, cycle in requests.items()}
    other_memory = make_other_memory() if cold else None
    with progress_bar(description, SESSION_SETS * len(requests)) as advance:
        for number in range(SESSION_SETS):
            _renew_sessions(backends, number)
            for batch in requests:
                before = count_preemptions(threads)
                times = measure_turns(
                    backends, prepared[batch], seconds / SESSION_SETS, rng, fewest, most, cpu_clock,
                    precision=RATIO_PRECISION, rough=rough,
                )  # fmt: skip
                preemptions[batch] += count_preemptions(threads) - before
                for name in wall[batch]:
                    wall[batch][name].append(times.wall[name])
                    cpu[batch][name].append(times.cpu[name])
                    turns[batch][name] += times.turns[name]
                if other_memory is not None:
                    after = measure_cold(precise, prepared[batch], COLD_ROUNDS, rng, other_memory)
                    for name, values in after.items():
                        cold_times[batch][name].append(values)
                advance("")
    return LatencyReport(
        *(_concatenate(wall), threads, seed, {batch: len(cycle) for batch, cycle in requests.items()}),
        cpu=_concatenate(cpu),
        cold=_concatenate(cold_times),
        sessions=_number_sets(wall),
        cold_sessions=_number_sets(cold_times),
        turns=turns,
        preemptions=preemptions,
    )


def count_preemptions(threads: int) -> int:
    """Return how often the calling thread, or any thread of a process with several, has lost its core so far."""
    who = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF) if threads == 1 else resource.RUSAGE_SELF
    return resource.getrusage(who).ru_nivcsw


def _renew_sessions(backends: Sequence[Backend], number: int) -> None:
    """Free all sessions and load them again, in the order of `backends` or in reverse; those of set 0 are new."""
    sessions = [backend.session for backend in backends if backend.session is not None] if number else []
    for session in sessions:
        session.free()
    for session in sessions[:: 1 if number % 2 == 0 else -1]:
        session.load()


Parts = dict[int, dict[str, list[np.ndarray]]]  # batch -> backend -> milliseconds [rounds] of each set


def _empty(backends: Sequence[Backend]) -> dict[str, list[np.ndarray]]:
    return {backend.name: [] for backend in backends}


def _concatenate(parts: Parts) -> Samples:
    return {batch: {name: np.concatenate(times) for name, times in of.items()} for batch, of in parts.items()}


def _number_sets(parts: Parts) -> Samples:
    return {
        batch: {name: np.repeat(np.arange(len(times)), [len(of) for of in times]) for name, times in backends.items()}
        for batch, backends in parts.items()
    }


def _has_sets(sessions: Mapping[str, np.ndarray] | None) -> bool:
    """Return whether there are several sets of sessions, so that intervals are over them."""
    return sessions is not None and len(np.unique(next(iter(sessions.values())))) > 1


def _medians(times: Samples) -> dict[str, dict[str, float]]:
    return {
        str(batch): {name: float(np.median(of)) for name, of in backends.items()} for batch, backends in times.items()
    }
