import gc
import json

import numpy as np
import pytest

from recprune_export.progress import quiet
from recprune_export.validation.latency import FEWEST, WARM_UP, Contestant, LatencyReport, measure


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


def test_contestants_take_turns_on_the_same_request() -> None:
    calls: list[tuple[str, int]] = []

    def contestant(name: str) -> Contestant:
        return Contestant(name, lambda request: calls.append((name, len(request["x"]))))

    names = ["a", "b", "c"]
    with quiet():
        result = measure(
            [contestant(n) for n in names], {2: {"x": np.zeros(2)}, 5: {"x": np.zeros(5)}}, threads=1, seconds=0.0
        )
    assert len(calls) == 2 * 3 * (WARM_UP + FEWEST)
    rounds = [tuple(name for name, _ in calls[i : i + 3]) for i in range(3 * WARM_UP, 3 * (WARM_UP + FEWEST), 3)]
    assert all(sorted(order) == names for order in rounds)
    assert len(set(rounds)) > 1  # in another order each time
    assert [len(of["a"]) for of in result.samples.values()] == [FEWEST, FEWEST]
    assert {size for _, size in calls} == {2, 5}


def test_garbage_collection_is_back_after_a_failure() -> None:
    def fails(request: object) -> None:
        if not gc.isenabled():
            raise RuntimeError

    with quiet(), pytest.raises(RuntimeError):
        measure([Contestant("a", fails)], {1: {"x": np.zeros(1)}}, threads=1)
    assert gc.isenabled()


def test_the_report_is_plain_json() -> None:
    values = json.loads(json.dumps(report(0, 1.5).to_dict()))
    assert values["threads"] == 1
    of = values["milliseconds"]["8"]["a"]
    assert set(of) == {"p50", "p95", "p99", "intervals", "distribution", "outliers"}
    assert all(of["intervals"][p][0] <= of[p] <= of["intervals"][p][1] for p in ("p50", "p95", "p99"))
    assert set(values["ratios"]["8"]) == {"a / b"}
