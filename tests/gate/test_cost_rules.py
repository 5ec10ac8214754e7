"""Load time and peak memory: three verdicts, one estimator, and more processes until it is decided."""

from collections.abc import Callable

import numpy as np
import pytest

from recprune_export.evidence import Verdict, judge_at_most
from recprune_export.gate import Limits
from recprune_export.gate.cost_rules import collect_footprints, compare_costs, ratio_of_few_medians
from recprune_export.validation import Footprint, FootprintReport
from recprune_export.validation.latency import statistics
from tests.gate.synthetic import make_footprints

LIMITS = Limits()


def load_verdict(report: FootprintReport) -> Verdict:
    return compare_costs(report, "NEW", "BASE", LIMITS)[0].verdict


@pytest.mark.parametrize(
    ("load", "peak", "verdicts"),
    [
        (50, 100, "pass pass"),
        (54, 105, "pass pass"),
        (90, 100, "fail pass"),
        (50, 120, "pass fail"),
        (100, 150, "fail fail"),
    ],
)
def test_costs(load: float, peak: float, verdicts: str) -> None:
    for seed in range(3):
        findings = compare_costs(make_footprints(load, peak, seed, scatter=0.03), "NEW", "BASE", LIMITS)
        assert " ".join(f.verdict.value for f in findings) == verdicts


def test_a_wide_interval_is_not_green() -> None:
    findings = [compare_costs(make_footprints(50, 100, seed, busy=0.7), "NEW", "BASE", LIMITS) for seed in range(30)]
    loads = [load for load, _ in findings]
    assert not any(f.verdict is Verdict.FAILS for f in loads)
    undecided = [f for f in loads if f.verdict is Verdict.UNDECIDED]
    assert len(undecided) > 15
    assert all("inconclusive" in f.reason for f in undecided)
    assert all(f.ratio is not None and f.ratio.high <= 1.25 for f in loads if f.verdict is Verdict.HOLDS)


def test_the_change_is_that_of_the_medians() -> None:
    for seed in range(4):
        for finding in compare_costs(make_footprints(70, 100, seed, busy=0.5), "NEW", "BASE", LIMITS):
            assert finding.ratio is not None
            assert finding.base is not None
            assert finding.ratio.estimate == pytest.approx((finding.new or 0.0) / finding.base)
            assert finding.ratio.low <= finding.ratio.estimate <= finding.ratio.high


def test_small_differences_of_small_models_are_no_regression() -> None:
    runs = {"NEW": (Footprint(6, 1, 0, 3e6),) * 8, "BASE": (Footprint(3, 1, 0, 1e6),) * 8}
    findings = compare_costs(FootprintReport(runs, 1), "NEW", "BASE", LIMITS)
    assert {f.verdict for f in findings} == {Verdict.HOLDS}
    assert [f.limit for f in findings] == ["at most 5.000 ms more", "at most 4.19 MB more"]
    assert all("is ignored" in f.reason for f in findings)


def sampler(load: float, scatter: float, seed: int) -> tuple[Callable[[int], FootprintReport], list[int]]:
    steps: list[int] = []

    def sample(count: int) -> FootprintReport:
        steps.append(count)
        return make_footprints(load, 100, 1000 * seed + len(steps), count=count, scatter=scatter)

    return sample, steps


def test_more_processes_run_until_it_is_decided_or_the_time_is_over() -> None:
    for seconds, decided in ((60.0, True), (0.0, False)):
        sample, steps = sampler(50, 0.15, 3)
        report = collect_footprints(sample, "NEW", "BASE", LIMITS, seconds)
        assert report is not None
        assert len(report.runs["NEW"]) == len(report.runs["BASE"]) == sum(steps)
        assert (len(steps) > 1) is decided
        assert (load_verdict(report) is not Verdict.UNDECIDED) is decided


def test_nothing_runs_where_both_gates_are_off() -> None:
    sample, steps = sampler(50, 0.1, 0)
    off = Limits(overrides={"load time": None, "peak memory": None})
    assert collect_footprints(sample, "NEW", "BASE", off, 60.0) is None
    assert steps == []


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 60)


@pytest.mark.parametrize("count", [8, 16, 40])
def test_verdicts_at_the_limit_err_at_most_in_the_stated_share(count: int, few_resamples: None) -> None:
    """The true ratio is the limit, so that each verdict but undecided errs; disturbances hit both of a pair, or one."""
    rng, trials = np.random.default_rng(count), 250
    errors = {Verdict.HOLDS: 0, Verdict.FAILS: 0, Verdict.UNDECIDED: 0}
    for _ in range(trials):
        pairs = rng.lognormal(0, 0.1, (count, 2)) * rng.lognormal(0, 0.2, (count, 1))
        pairs *= np.where(rng.random((count, 2)) < 0.1, rng.uniform(1.5, 3.0, (count, 2)), 1.0)
        errors[judge_at_most(ratio_of_few_medians(pairs), 1.0)] += 1
    noise = 3 * (0.025 * 0.975 / trials) ** 0.5
    assert max(errors[Verdict.HOLDS], errors[Verdict.FAILS]) / trials <= 0.025 + noise


def test_looking_again_after_each_step_errs_no_more(few_resamples: None) -> None:
    """The load time at its limit of 25 %: the sequence ends at the first verdict, or after 40 processes."""
    trials, errors = 60, 0
    for trial in range(trials):
        report = make_footprints(62.5, 100, trial, scatter=0.2, count=40)
        for count in range(8, 41, 4):
            runs = {name: values[:count] for name, values in report.runs.items()}
            if load_verdict(FootprintReport(runs, 256)) is not Verdict.UNDECIDED:
                errors += 1
                break
    assert errors / trials <= 2 * 0.025 + 0.07
