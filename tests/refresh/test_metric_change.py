"""Verdicts on metrics of new rows: holds, fails, cannot be told."""

from dataclasses import replace

import pytest

from recprune_export.evidence import Verdict
from recprune_export.metrics import MetricChange
from recprune_export.refresh.metric_change import MetricComparison, judge_gap, judge_metric

THEN = {"dense": {"auc": 0.80, "logloss": 0.5}, "pruned": {"auc": 0.795, "logloss": 0.5}}
HOLDS, FAILS, UNDECIDED, SKIPPED = Verdict.HOLDS, Verdict.FAILS, Verdict.UNDECIDED, Verdict.SKIPPED


def recorded_change(error: float, half: float = 0.001) -> MetricChange:
    return MetricChange("auc", 0.80, 0.795, -0.005 - half, -0.005 + half, error, 1000)


def quality(
    dense: float, artifact: float, error: float = 0.001, half: float = 0.001, recorded_error: float | None = None
) -> MetricComparison:
    gap = artifact - dense
    change = MetricChange("auc", dense, artifact, gap - half, gap + half, error)
    record = None if recorded_error is None else recorded_change(recorded_error)
    now = {"dense": {"auc": dense}, "pruned": {"auc": artifact}}
    return MetricComparison(THEN, now, change, rows=1000, recorded_change=record)


@pytest.mark.parametrize(
    ("artifact", "error", "recorded_error", "verdict"),
    [
        (0.795, 0.001, 0.001, HOLDS),
        (0.81, 0.001, 0.001, HOLDS),
        (0.78, 0.001, 0.001, FAILS),
        (0.786, 0.0001, 0.0001, HOLDS),  # within the limit
        (0.786, 0.001, 0.001, UNDECIDED),
        (0.78, 0.01, 0.001, UNDECIDED),  # a few rows
        (0.795, 0.01, 0.001, UNDECIDED),  # no change seen, but a few rows show no absence of it
        (0.78, 0.001, 0.01, UNDECIDED),  # a few rows then
        (0.78, 0.001, None, FAILS),
    ],
)
def test_the_metric_is_judged_by_its_interval(
    artifact: float, error: float, recorded_error: float | None, verdict: Verdict
) -> None:
    finding = judge_metric(quality(0.80, artifact, error, recorded_error=recorded_error), max_fall=0.01)
    assert finding.verdict is verdict, finding.reason
    assert f"{artifact:.4f}" in finding.reason
    assert ("these 1,000 rows give an interval of +-" in finding.reason) is (verdict is UNDECIDED)
    assert finding.holds is {HOLDS: True, FAILS: False}.get(verdict)


def test_without_an_allowance_few_rows_never_hold() -> None:
    finding = judge_metric(quality(0.72, 0.7424, error=0.02), max_fall=0.0)
    assert (finding.verdict, finding.holds) == (UNDECIDED, None)
    assert "inconclusive" in finding.reason
    assert finding.to_dict()["verdict"] == "undecided"
    assert finding.estimate is not None
    assert finding.estimate.estimate == pytest.approx(0.0526)


def test_the_rows_of_the_record_have_no_error_of_sampling_between_them() -> None:
    same = replace(quality(0.80, 0.795, error=0.05, half=0.05, recorded_error=0.05), is_same_rows=True)
    assert judge_metric(same, max_fall=0.0).verdict is HOLDS
    assert judge_gap(same, max_drop=0.0).verdict is HOLDS


def test_a_dense_model_that_fell_as_well_is_to_be_trained_again() -> None:
    assert "train it again" in judge_metric(quality(0.76, 0.755), 0.01).reason
    assert "train it again" not in judge_metric(quality(0.80, 0.755), 0.01).reason


@pytest.mark.parametrize(
    ("dense", "artifact", "half", "verdict"),
    [
        (0.80, 0.795, 0.001, HOLDS),
        (0.70, 0.695, 0.001, HOLDS),  # both fell: the distance is as it was
        (0.80, 0.785, 0.001, FAILS),
        (0.80, 0.785, 0.02, UNDECIDED),
        (0.80, 0.794, 0.0005, HOLDS),  # within the limit
        (0.80, 0.794, 0.0015, UNDECIDED),
        (0.75, 0.80, 0.001, HOLDS),
    ],
)
def test_the_distance_from_dense(dense: float, artifact: float, half: float, verdict: Verdict) -> None:
    finding = judge_gap(quality(dense, artifact, half=half), max_drop=0.002)
    assert finding.verdict is verdict, finding.reason


def test_the_interval_of_the_recorded_distance_counts() -> None:
    now = quality(0.80, 0.7945, half=0.001)
    assert judge_gap(now, max_drop=0.002).verdict is HOLDS
    uncertain = replace(now, recorded_change=recorded_change(0.001, half=0.01))
    assert judge_gap(uncertain, max_drop=0.002).verdict is UNDECIDED


def test_without_a_record_or_a_dense_model_it_is_said() -> None:
    nothing = replace(quality(0.80, 0.795), then={"dense": {}, "pruned": {}})
    assert judge_metric(nothing, 0.01).verdict is SKIPPED
    assert judge_gap(nothing, max_drop=0.002).verdict is FAILS  # against 0, for nothing else is known
    assert judge_gap(nothing, max_drop=0.01).verdict is HOLDS
    alone = replace(quality(0.80, 0.795), now={"pruned": {"auc": 0.795}})
    assert judge_gap(alone, 0.002).verdict is SKIPPED
    assert "--model" in judge_gap(alone, 0.002).reason
