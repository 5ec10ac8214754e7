import gc
import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recprune_export.evidence import Verdict, judge_at_most
from recprune_export.progress import quiet
from recprune_export.validation import Backend, LatencyReport, measure_latency
from recprune_export.validation.latency import closed_loop, turns
from recprune_export.validation.latency.latency_constants import BUSY_PATIENCE, MIN_TURNS, PRECISE_TURNS, WARM_UP
from recprune_export.validation.latency.turns import (
    TurnTimes,
    count_calls,
    estimate_log_ratio,
    measure_cold,
    measure_turns,
    prepare_requests,
)


def report(seed: int, factor: float, rounds: int = 400) -> LatencyReport:
    """Samples with noise that stays for a while, as that of a shared machine does; `b` takes `factor` times as long as `a`."""
    rng = np.random.default_rng(seed)
    busy = np.repeat(rng.lognormal(0, 0.3, size=rounds // 20), 20)
    return LatencyReport(
        {8: {name: busy * rng.lognormal(0, 0.05, rounds) * f for name, f in (("a", 1.0), ("b", factor))}}, 1
    )


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    held = [(r := report(seed, 1.0).ratio(8, "b", "a")).low <= 1.0 <= r.high for seed in range(60)]
    assert np.mean(held) > 0.85


@pytest.mark.parametrize("factor", [1.1, 2.0])
def test_what_is_slower_is_found_slower(factor: float) -> None:
    slower = report(0, factor)
    ratio = slower.ratio(8, "b", "a")
    assert 1.0 < ratio.low < factor * 1.05
    assert ratio.low <= ratio.estimate <= ratio.high
    assert judge_at_most(ratio, 1.0) is Verdict.FAILS
    assert judge_at_most(slower.ratio(8, "a", "b"), 1.0) is Verdict.HOLDS


def test_what_is_equal_is_not_called_slower() -> None:
    called = [judge_at_most(report(seed, 1.0).ratio(8, "b", "a"), 1.0) is Verdict.FAILS for seed in range(60)]
    assert np.mean(called) < 0.1


def test_percentiles_are_those_of_the_samples() -> None:
    of = LatencyReport({1: {"a": np.arange(101.0)}}, 1).percentiles(1, "a")
    assert (of.p50, of.p95, of.p99) == (50.0, 95.0, 99.0)


def rotation(batch: int, count: int) -> list[dict[str, np.ndarray]]:
    return [{"x": np.full(batch, number)} for number in range(count)]


def test_backends_take_turns_of_several_calls_of_which_the_first_are_not_timed() -> None:
    calls: list[tuple[str, int]] = []

    def backend(name: str) -> Backend:
        return Backend(name, lambda request: calls.append((name, int(request["x"][0]))))

    names = ["a", "b", "c"]
    untimed, timed = count_calls(0.0)
    rng = np.random.default_rng(0)
    backends = [backend(n) for n in names]
    prepared = prepare_requests(backends, rotation(2, 7))
    times = measure_turns(backends, prepared, 0.0, rng, min_rounds=50, max_rounds=500)
    calls = calls[len(names) * WARM_UP :]
    groups = [calls[i : i + untimed + timed] for i in range(0, len(calls), untimed + timed)]
    assert all(len({name for name, _ in group}) == 1 for group in groups)
    orders = [tuple(group[0][0] for group in groups[i : i + 3]) for i in range(0, len(groups), 3)]
    assert all(sorted(order) == names for order in orders)
    assert len(set(orders)) > 1  # in another order each time
    for name in names:
        answered = [number for group in groups if group[0][0] == name for _, number in group[untimed:]]
        assert answered == [number % 7 for number in range(len(times.wall[name]))]  # each request is timed as often
        assert len(times.cpu[name]) == len(times.wall[name]) >= 50
        assert times.turns[name] == sum(group[0][0] == name for group in groups)


def test_all_requests_are_answered_before_the_first_timed_one_where_models_may_lie_in_mapped_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "has_registered_maps", lambda: True)
    calls: list[tuple[str, int]] = []
    backends = [Backend(n, lambda request, n=n: calls.append((n, int(request["x"][0])))) for n in "ab"]  # type: ignore[misc]
    measure_turns(backends, prepare_requests(backends, rotation(1, 40)), 0.0, np.random.default_rng(0))
    assert calls[:80] == [(name, number) for name in "ab" for number in range(40)]


def test_a_request_is_prepared_before_the_clock_runs() -> None:
    taken: list[int] = []
    run: list[int] = []

    def take(request: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert not run
        taken.append(int(request["x"][0]))
        return {"y": request["x"] + 10}

    backend = Backend("a", lambda request: run.append(int(request["y"][0])), take)
    measure_turns([backend], prepare_requests([backend], rotation(1, 3)), 0.0, np.random.default_rng(0))
    assert taken == [0, 1, 2]
    assert set(run) == {10, 11, 12}


class Session:
    """A session that notes what is done to it."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def free(self) -> None:
        self.log.append(f"free {self.name}")

    def load(self) -> None:
        self.log.append(f"load {self.name}")


def test_sessions_are_freed_and_loaded_in_one_order_and_then_in_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    monkeypatch.setattr(closed_loop, "SESSION_SETS", 3)
    monkeypatch.setattr(closed_loop, "COLD_ROUNDS", 1)
    backends = [Backend(name, lambda request: None, session=Session(name, log)) for name in "ab"]
    with quiet():
        measured = measure_latency(backends, {1: rotation(1, 2)}, threads=1, seconds=0.0)
    assert log == ["free a", "free b", "load b", "load a", "free a", "free b", "load a", "load b"]
    assert all(sorted(set(measured.sessions[1][name])) == [0, 1, 2] for name in "ab")
    assert len(measured.cold[1]["a"]) == 3
    assert set(measured.turns[1]) == {"a", "b"}


def spin(seconds: float) -> Callable[[object], None]:
    def run(request: object) -> None:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    return run


def test_cpu_time_leaves_waiting_out() -> None:
    def wait(request: object) -> None:
        spin(5e-4)(request)
        time.sleep(1e-3)

    backend = Backend("a", wait)
    prepared = prepare_requests([backend], rotation(1, 2))
    times = measure_turns([backend], prepared, 0.0, np.random.default_rng(0), 10, 10)
    assert np.median(times.cpu["a"]) == pytest.approx(0.5, rel=0.5)
    assert np.median(times.wall["a"]) > 1.4


class Clock:
    """Time passes in backends alone, by the wall clock and by the CPU clock, `waiting` of it by the wall clock alone."""

    def __init__(self, waiting: float = 0.0) -> None:
        self.ns, self.waiting = 0.0, waiting

    def perf_counter_ns(self) -> int:
        return round(self.ns)

    def thread_time_ns(self) -> int:
        return round(self.ns * (1 - self.waiting))

    def perf_counter(self) -> float:
        return self.ns / 1e9

    def thread_time(self) -> float:
        return self.thread_time_ns() / 1e9

    def backend(self, name: str, seconds: float, seed: int = 0, scatter: float = 0.02) -> Backend:
        rng = np.random.default_rng(seed)

        def run(request: object) -> None:
            self.ns += seconds * 1e9 * rng.lognormal(0, scatter)

        return Backend(name, run)

    def measure(self, *backends: Backend, seconds: float, **options: Any) -> TurnTimes:
        prepared = prepare_requests(backends, rotation(1, 4))
        return measure_turns(
            backends, prepared, seconds, np.random.default_rng(0), 10, 10**5, self.thread_time_ns, **options
        )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(turns, "time", made)
    return made


def test_a_rough_ratio_far_from_1_takes_few_turns_and_one_near_1_as_many_as_the_rest(clock: Clock) -> None:
    backends = [
        clock.backend(name, seconds, seed)
        for seed, (name, seconds) in enumerate({"far": 3e-3, "near": 1.0005e-3, "one": 1.2e-3, "last": 1e-3}.items())
    ]
    times = clock.measure(*backends, seconds=3.0, precision=1e-9, rough=("far", "near"))
    counts = times.turns
    assert PRECISE_TURNS <= counts["far"] < 2 * PRECISE_TURNS
    assert counts["near"] == counts["one"] == counts["last"] > 3 * PRECISE_TURNS
    assert all(len(times.wall[name]) == len(times.cpu[name]) for name in counts)
    assert len(times.wall["one"]) == len(times.wall["last"]) > len(times.wall["far"])


@pytest.mark.parametrize("precision", [0.003, 0.001])
def test_a_measurement_ends_where_its_ratios_are_precise(clock: Clock, precision: float) -> None:
    backends = [clock.backend("a", 2e-3, 0), clock.backend("b", 1e-3, 1)]
    times = clock.measure(*backends, seconds=1e3, precision=precision)
    assert np.median(times.wall["a"]) / np.median(times.wall["b"]) == pytest.approx(2.0, rel=5 * precision)
    assert clock.perf_counter() < 20.0
    without = clock.measure(*backends, seconds=20.0)
    assert without.turns["a"] > times.turns["a"] >= PRECISE_TURNS


def test_a_busy_machine_gives_as_many_rounds_but_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    turns_taken = {}
    for waiting in (0.0, 0.5, 0.99):
        clock = Clock(waiting)
        monkeypatch.setattr(turns, "time", clock)
        backends = [clock.backend(name, 1e-3 / (1 - waiting), seed) for seed, name in enumerate("ab")]
        start = clock.perf_counter()
        turns_taken[waiting] = clock.measure(*backends, seconds=2.0, precision=1e-9).turns["a"]
        assert clock.perf_counter() - start < 2.0 * (BUSY_PATIENCE + 1)
    assert turns_taken[0.99] < turns_taken[0.5] < 2.5 * turns_taken[0.0]
    assert turns_taken[0.5] > 0.6 * turns_taken[0.0]


def test_rough_backends_that_take_long_have_short_turns_and_the_fewest_of_them(clock: Clock) -> None:
    backends = [clock.backend("slow", 1.0), clock.backend("a", 1e-3, 1), clock.backend("b", 1e-3, 2)]
    times = clock.measure(*backends, seconds=0.0, precision=0.1, rough=("slow",))
    assert (len(times.wall["slow"]), times.turns["slow"]) == (MIN_TURNS, MIN_TURNS)
    assert len(times.wall["a"]) > 10


def test_slow_calls_with_cold_caches_are_few(clock: Clock) -> None:
    backends = [clock.backend("a", 0.2)]
    times = measure_cold(backends, prepare_requests(backends, rotation(1, 2)), 8, np.random.default_rng(0), np.ones(1))
    assert len(times["a"]) == 2


def test_the_error_of_a_ratio_is_that_of_its_medians_and_few_disturbed_turns_do_not_move_it() -> None:
    rng = np.random.default_rng(0)
    ratios, errors = [], []
    for _ in range(400):
        above, below = 2.0 * rng.lognormal(0, 0.02, 30), rng.lognormal(0, 0.02, 30)
        above[:3] *= 50.0
        log_ratio, error = estimate_log_ratio(above.tolist(), below.tolist())
        ratios.append(log_ratio)
        errors.append(error)
    assert np.mean(ratios) == pytest.approx(np.log(2.0), abs=0.006)
    assert np.mean(errors) == pytest.approx(np.std(ratios), rel=0.3)


def test_ratios_to_a_backend_with_fewer_rounds_are_taken_set_by_set() -> None:
    rng = np.random.default_rng(0)
    sizes = {"rough": 12, "one": 300}
    sessions = {name: np.repeat(np.arange(6), size // 6) for name, size in sizes.items()}
    times = {name: ms * rng.lognormal(0, 0.02, sizes[name]) for name, ms in (("rough", 3.0), ("one", 1.0))}
    report = LatencyReport({1: times}, 1, sessions={1: sessions}, turns={1: {"rough": 12, "one": 18}})
    ratio = report.ratio(1, "rough", "one")
    assert ratio.low <= 3.0 * 1.03
    assert ratio.high >= 3.0 / 1.03
    assert json.loads(json.dumps(report.to_dict()))["turns"] == {"1": {"rough": 12, "one": 18}}


def test_without_cold_calls_there_is_nothing_of_them() -> None:
    with quiet():
        measured = measure_latency(
            [Backend(name, lambda request: None) for name in "ab"],
            {1: rotation(1, 2)},
            threads=1,
            seconds=0.0,
            cold=False,
        )
    assert not measured.cold
    assert "cold" not in measured.to_dict()


def on_a_busy_machine(waiting: float, seed: int = 0) -> LatencyReport:
    """`a` takes three times as long as `b`, and waits for a core, in addition, `waiting` times as often."""
    rng = np.random.default_rng(seed)
    cpu = {name: ms * rng.lognormal(0, 0.02, 300) for name, ms in (("a", 3.0), ("b", 1.0))}
    wall = {
        name: times + waiting * times.mean() * (rng.random(300) < waiting * times.mean()) for name, times in cpu.items()
    }
    return LatencyReport(
        {8: wall}, 1, cpu={8: cpu}, sessions={8: dict.fromkeys(wall, np.repeat(np.arange(6), 50))}, preemptions={8: 7}
    )


def test_ratios_of_a_busy_machine_are_by_cpu_time_and_a_warning_says_so() -> None:
    for seed in range(5):
        busy = on_a_busy_machine(0.3, seed)
        (warning,) = busy.warnings
        assert "busy" in warning
        assert "batch 8" in warning
        assert busy.clock == "CPU"
        assert busy.ratio(8, "a", "b").low <= 3.0 * 1.02
        assert busy.ratio(8, "a", "b").high >= 3.0 * 0.98
        assert busy.to_dict()["clock"] == "CPU"


def test_a_quiet_machine_is_not_warned_of() -> None:
    calm = on_a_busy_machine(0.0)
    assert not calm.warnings
    assert calm.ratio(8, "a", "b") == calm.ratio_by("wall", 8, "a", "b")


def test_with_several_threads_cpu_time_says_nothing() -> None:
    assert not replace(on_a_busy_machine(0.3), threads=2).warnings


def test_the_interval_holds_what_differs_between_sessions() -> None:
    covered = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        sessions = np.repeat(np.arange(6), 50)
        placement = rng.normal(0, 0.03, 6)[sessions]  # for as long as a session lives
        times = {name: rng.lognormal(0, 0.02, 300) for name in "ab"}
        ratio = LatencyReport(
            {1: {"a": times["a"] * np.exp(placement), "b": times["b"]}}, 1, sessions={1: dict.fromkeys("ab", sessions)}
        ).ratio(1, "a", "b")
        covered.append(ratio.low <= 1.0 <= ratio.high)
    assert np.mean(covered) > 0.88


def asked(seed: int, requests: int, rounds: int = 400) -> LatencyReport:
    """Both take equally long on the whole; some requests take longer, and some of these longer with `a` than with `b`."""
    rng = np.random.default_rng(seed)
    of_round = np.arange(rounds) % requests
    hard, own = rng.lognormal(0, 0.3, requests), rng.lognormal(0, 0.05, requests)
    times = {"a": hard * own / np.median(hard * own), "b": hard / np.median(hard)}
    return LatencyReport(
        {8: {name: each[of_round] * rng.lognormal(0, 0.05, rounds) for name, each in times.items()}}, 1
    )


@pytest.mark.parametrize("requests", [16, 32, 512])
def test_the_interval_holds_the_truth_where_requests_differ(requests: int) -> None:
    ratios = [asked(seed, requests).ratio(8, "b", "a") for seed in range(60)]
    assert np.mean([r.low <= 1.0 <= r.high for r in ratios]) > 0.85


def test_what_both_find_hard_leaves_the_interval_of_the_ratio_narrow() -> None:
    for seed in range(5):
        report = asked(seed, 32)
        ratio, alone = report.ratio(8, "b", "a"), report.intervals(8, "a")["p50"]
        assert ratio.high - ratio.low < alone.high - alone.low


def test_garbage_collection_is_back_after_a_failure() -> None:
    def fails(request: object) -> None:
        if not gc.isenabled():
            raise RuntimeError

    with quiet(), pytest.raises(RuntimeError):
        measure_latency([Backend("a", fails)], {1: rotation(1, 1)}, threads=1)
    assert gc.isenabled()


def test_the_report_is_plain_json() -> None:
    values = json.loads(json.dumps(report(0, 1.5).to_dict()))
    assert values["threads"] == 1
    of = values["milliseconds"]["8"]["a"]
    assert set(of) == {"p50", "p95", "p99", "intervals", "distribution", "outliers"}
    assert all(of["intervals"][p][0] <= of[p] <= of["intervals"][p][1] for p in ("p50", "p95", "p99"))
    assert set(values["ratios"]["8"]) == {"a / b"}
