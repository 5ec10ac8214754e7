"""A queue on a clock of our own, so that its waiting times can be computed."""

import json

import numpy as np
import pytest

from recprune_export.progress import quiet
from recprune_export.validation import Backend, OpenLoopReport
from recprune_export.validation.latency import open_loop
from recprune_export.validation.latency.latency_constants import WARM_UP
from recprune_export.validation.latency.open_loop import measure_open_loop, poisson_arrivals, serve

ROTATION = [{"x": np.array([number])} for number in range(7)]


class Clock:
    """Time passes only by sleeping, by working, and a little by looking."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1e-6
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def server(self, name: str, milliseconds: float) -> Backend:
        return Backend(name, lambda request: self.sleep(milliseconds / 1e3))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(open_loop, "time", made)
    return made


def measured(*servers: Backend, qps: float, seconds: float) -> OpenLoopReport:
    with quiet():
        return measure_open_loop(servers, {1: ROTATION}, qps=qps, threads=1, seconds=seconds)


@pytest.mark.parametrize("busy", [0.2, 0.5, 0.8])
def test_the_mean_wait_is_that_of_queueing_theory(clock: Clock, busy: float) -> None:
    """Poisson arrivals, one server, constant service s: the mean wait is ρ s / 2 (1 - ρ) (Pollaczek and Khinchine)."""
    service = 2.0
    arrivals = poisson_arrivals(busy / service * 1e3, 60.0, np.random.default_rng(0))
    times = np.array(serve(clock.server("a", service), ROTATION[:1] * len(arrivals), arrivals)) * 1e3
    wait = busy * service / 2 / (1 - busy)
    assert (times[:, 0] - times[:, 1]).mean() == pytest.approx(wait, rel=0.1, abs=0.01)
    assert times[:, 1] == pytest.approx(service, abs=0.01)


def test_a_pause_delays_those_who_come_after_it(clock: Clock) -> None:
    """In a closed loop one request would have been slow; here 100 a second keep arriving in half a second of pause."""
    calls = 0

    def pauses(request: object) -> None:
        nonlocal calls
        calls += 1
        clock.sleep(0.5 if calls == 50 else 1e-3)

    arrivals = poisson_arrivals(100.0, 2.0, np.random.default_rng(1))
    latency = np.array(serve(Backend("a", pauses), ROTATION[:1] * len(arrivals), arrivals))[:, 0]
    late = np.sum((arrivals >= arrivals[49]) & (arrivals < arrivals[49] + 0.4))
    assert np.sum(latency > 0.1) >= late > 20


def test_who_cannot_keep_up_is_said_and_stopped(clock: Clock) -> None:
    report = measured(clock.server("slow", 30.0), clock.server("fast", 1.0), qps=100.0, seconds=4.0)
    assert report.saturated(1, "slow")
    assert not report.saturated(1, "fast")
    assert report.percentiles(1, "slow").p99 > 1000
    assert clock.now < 60  # and not the 4 · 2 · 100 · 30 ms that all arrivals would take many times over
    values = json.loads(json.dumps(report.to_dict()))["milliseconds"]["1"]
    assert values["slow"]["saturated"] is True
    assert values["fast"]["utilization"] == pytest.approx(0.1, rel=0.05)


def test_both_get_the_same_arrivals(clock: Clock) -> None:
    report = measured(clock.server("a", 2.0), clock.server("b", 2.0), qps=50.0, seconds=3.0)
    a, b = (report.times[1][name].latency for name in ("a", "b"))
    np.testing.assert_allclose(a, b, atol=0.1)


def test_both_are_asked_the_same_one_request_after_the_other(clock: Clock) -> None:
    asked: dict[str, list[int]] = {"a": [], "b": []}

    def server(name: str) -> Backend:
        def run(request: dict[str, np.ndarray]) -> None:
            clock.sleep(1e-3)
            asked[name].append(int(request["x"][0]))

        return Backend(name, run)

    report = measured(server("a"), server("b"), qps=50.0, seconds=3.0)
    assert asked["a"] == asked["b"]
    served = asked["a"][WARM_UP:]
    assert served == [number % len(ROTATION) for number in range(len(served))]  # turns go on where the last one ended
    assert len(asked["a"]) == WARM_UP + len(report.times[1]["a"].latency)


def test_rare_requests_are_measured_as_well(clock: Clock) -> None:
    report = measured(clock.server("a", 1.0), qps=0.5, seconds=1.0)
    assert len(report.times[1]["a"].latency) >= 20


def test_arrivals_are_poisson() -> None:
    gaps = np.diff(poisson_arrivals(1000.0, 30.0, np.random.default_rng(3)))
    assert gaps.mean() == pytest.approx(1e-3, rel=0.03)
    assert gaps.std() == pytest.approx(1e-3, rel=0.05)
