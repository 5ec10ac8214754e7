"""Statistics on synthetic samples whose truth is known."""

import numpy as np
import pytest

from recprune_export.evidence import Verdict, judge_at_most
from recprune_export.validation import interval_of_few, percentiles
from recprune_export.validation.latency import statistics
from recprune_export.validation.latency.statistics import midmean, outliers, percentile_intervals, t_quantile


@pytest.mark.parametrize("count", [6, 12, 30])
@pytest.mark.parametrize("tails", [3, 100])
def test_the_interval_of_few_holds_the_truth_as_often_as_it_says(count: int, tails: int) -> None:
    rng = np.random.default_rng(count + tails)
    found = [interval_of_few(rng.standard_t(tails, size=count), confidence=0.95, seed=s) for s in range(300)]
    held = np.mean([i.low <= 0.0 <= i.high for i in found])
    assert held > 0.92  # 300 draws: .95 ± .025


def test_the_plain_interval_of_five_would_not_hold_it() -> None:
    """What the expansion is for: without it a handful of values is taken for surer than it is."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(300):
        values = rng.normal(size=5)
        low, high = np.percentile(values[rng.integers(0, 5, size=(2000, 5))].mean(axis=1), (2.5, 97.5))
        held.append(low <= 0.0 <= high)
    assert np.mean(held) < 0.9


def test_more_values_and_less_confidence_make_it_narrower() -> None:
    rng = np.random.default_rng(1)

    def width(count: int, confidence: float) -> float:
        found = [interval_of_few(rng.normal(size=count), confidence=confidence) for _ in range(50)]
        return float(np.median([i.high - i.low for i in found]))

    assert width(40, 0.99) < 0.6 * width(10, 0.99)
    assert width(20, 0.9) < 0.8 * width(20, 0.99)


def test_two_values_have_no_interval() -> None:
    with pytest.raises(ValueError, match="no interval"):
        interval_of_few([0.0, 1.0])


@pytest.mark.parametrize("wild", [1e3, -1e3])
def test_one_value_moves_the_midmean_by_little(wild: float) -> None:
    values = np.linspace(-1, 1, 11)
    assert abs(midmean(np.append(values, wild)) - midmean(values)) < 0.2


# From the tables of Student's t.
@pytest.mark.parametrize(
    ("probability", "freedom", "expected"),
    [(0.975, 5, 2.571), (0.995, 5, 4.032), (0.995, 9, 3.250), (0.975, 30, 2.042), (0.9, 7, 1.415), (0.5, 4, 0.0)],
)
def test_quantiles_of_t_are_those_of_the_tables(probability: float, freedom: int, expected: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(expected, abs=0.02)


def test_percentile_intervals_hold_the_percentiles_of_the_population() -> None:
    rng = np.random.default_rng(2)
    truth = {"p50": np.log(2), "p95": np.log(20), "p99": np.log(100)}  # of an exponential
    held = dict.fromkeys(truth, 0)
    for _ in range(40):
        found = percentile_intervals(rng.exponential(size=1000))
        for name, value in truth.items():
            held[name] += found[name].low <= value <= found[name].high
    assert held["p50"] >= 34
    assert held["p95"] >= 34
    assert held["p99"] >= 30


def test_outliers_are_named_and_stay_in_the_percentiles() -> None:
    times = np.random.default_rng(0).normal(1.0, 0.02, size=200)
    times[[17, 90]] = 30.0, 50.0
    found = outliers(times)
    assert found.count == 2
    assert found.largest == ((90, 50.0), (17, 30.0))
    assert 1.0 < found.limit < 1.3
    assert percentiles(times).p99 > percentiles(np.delete(times, [17, 90])).p99


def test_what_is_alike_has_no_outliers() -> None:
    assert outliers(np.full(50, 0.3)).count == 0


@pytest.mark.parametrize("count", [8, 16, 40])
def test_intervals_of_few_values_err_at_most_in_the_stated_share(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log ratios of processes around the limit, one in ten disturbed: a claim at the limit holds and fails in 2.5 % each."""
    monkeypatch.setattr(statistics, "RESAMPLES", 100)
    rng, trials = np.random.default_rng(count), 250
    values = rng.normal(0, 0.02, (trials, count)) * np.where(rng.random((trials, count)) < 0.1, 10.0, 1.0)
    verdicts = [judge_at_most(interval_of_few(row, confidence=0.95), 0.0) for row in values]
    noise = 3 * (0.025 * 0.975 / trials) ** 0.5
    assert verdicts.count(Verdict.HOLDS) / trials <= 0.025 + noise
    assert verdicts.count(Verdict.FAILS) / trials <= 0.025 + noise


@pytest.mark.parametrize("rounds", [60, 150, 400])
def test_ratios_of_medians_err_at_most_in_the_stated_share(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 100)
    rng, trials = np.random.default_rng(rounds), 120
    verdicts = []
    for _ in range(trials):
        above, below = rng.lognormal(0, 0.2, (2, rounds)) * rng.lognormal(0, 0.1, rounds)
        verdicts.append(judge_at_most(statistics.ratio_of_medians(above, below), 1.0))
    noise = 3 * (0.025 * 0.975 / trials) ** 0.5
    assert verdicts.count(Verdict.HOLDS) / trials <= 0.025 + noise
    assert verdicts.count(Verdict.FAILS) / trials <= 0.025 + noise
