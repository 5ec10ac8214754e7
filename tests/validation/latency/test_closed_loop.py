import gc
import json

import numpy as np
import pytest

from recprune_export.progress import quiet
from recprune_export.validation import Backend, LatencyReport, measure_latency
from recprune_export.validation.latency.latency_constants import MIN_ROUNDS, WARM_UP


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
    (sentence,) = slower.slower("b", "a")
    assert "batch 8" in sentence
    assert not slower.slower("a", "b")


def test_what_is_equal_is_not_called_slower() -> None:
    called = [bool(report(seed, 1.0).slower("b", "a")) for seed in range(60)]
    assert np.mean(called) < 0.1


def test_percentiles_are_those_of_the_samples() -> None:
    of = LatencyReport({1: {"a": np.arange(101.0)}}, 1).percentiles(1, "a")
    assert (of.p50, of.p95, of.p99) == (50.0, 95.0, 99.0)


def rotation(batch: int, count: int) -> list[dict[str, np.ndarray]]:
    return [{"x": np.full(batch, number)} for number in range(count)]


def test_contestants_and_requests_take_turns() -> None:
    calls: list[tuple[str, int, int]] = []

    def contestant(name: str) -> Backend:
        return Backend(name, lambda request: calls.append((name, len(request["x"]), int(request["x"][0]))))

    names = ["a", "b", "c"]
    with quiet():
        result = measure_latency(
            [contestant(n) for n in names], {2: rotation(2, 7), 5: rotation(5, 1)}, threads=1, seconds=0.0
        )
    assert len(calls) == 2 * 3 * (WARM_UP + MIN_ROUNDS)
    rounds = [calls[i : i + 3] for i in range(0, 3 * (WARM_UP + MIN_ROUNDS), 3)]
    orders = [tuple(name for name, _, _ in each) for each in rounds]
    assert all(sorted(order) == names for order in orders)
    assert len(set(orders[WARM_UP:])) > 1  # in another order each time
    assert [{(batch, number) for _, batch, number in each} for each in rounds] == [
        {(2, number % 7)} for number in range(WARM_UP + MIN_ROUNDS)
    ]  # all of them the same request, the next one in the next round
    assert [len(of["a"]) for of in result.samples.values()] == [MIN_ROUNDS, MIN_ROUNDS]
    assert result.to_dict()["requests"] == {"2": 7, "5": 1}
    assert {(batch, number) for _, batch, number in calls[3 * len(rounds) :]} == {(5, 0)}


def test_a_request_is_made_ready_once_and_before_the_clock_runs() -> None:
    taken: list[int] = []
    run: list[int] = []

    def take(request: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert not run
        taken.append(int(request["x"][0]))
        return {"y": request["x"] + 10}

    with quiet():
        measure_latency(
            [Backend("a", lambda request: run.append(int(request["y"][0])), take)], {1: rotation(1, 3)},
            threads=1, seconds=0.0,
        )  # fmt: skip
    assert taken == [0, 1, 2]
    assert set(run) == {10, 11, 12}


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
