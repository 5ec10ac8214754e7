"""What is said of metrics: only a fall beyond doubt speaks against a bundle."""

from dataclasses import replace

import pytest

from recprune_export.metrics import MetricChange
from recprune_export.refresh.metric_change import MetricComparison, judge_gap, judge_metric

THEN = {"dense": {"auc": 0.80, "logloss": 0.5}, "pruned": {"auc": 0.795, "logloss": 0.5}}


def quality(dense: float, artifact: float, error: float = 0.001, half: float = 0.001) -> MetricComparison:
    gap = artifact - dense
    change = MetricChange("auc", dense, artifact, gap - half, gap + half, error)
    return MetricComparison(THEN, {"dense": {"auc": dense}, "pruned": {"auc": artifact}}, change, rows=1000)


@pytest.mark.parametrize(
    ("artifact", "error", "tested", "holds"),
    [
        (0.795, 0.001, 1000, True),
        (0.81, 0.001, 1000, True),
        (0.78, 0.001, 1000, False),
        (0.786, 0.0001, 1000, True),  # within the limit
        (0.78, 0.01, 1000, True),  # a few rows
        (0.78, 0.001, 10, True),  # a few rows then
        (0.78, 0.001, None, False),
    ],
)
def test_a_fall_beyond_doubt_does_not_hold(artifact: float, error: float, tested: int | None, holds: bool) -> None:
    finding = judge_metric(quality(0.80, artifact, error), tested, max_fall=0.01)
    assert finding.holds is holds
    assert f"{artifact:.4f}" in finding.reason


def test_a_dense_model_that_fell_as_well_is_to_be_trained_again() -> None:
    assert "train it again" in judge_metric(quality(0.76, 0.755), 1000, 0.01).reason
    assert "train it again" not in judge_metric(quality(0.80, 0.755), 1000, 0.01).reason


@pytest.mark.parametrize(
    ("dense", "artifact", "half", "holds"),
    [
        (0.80, 0.795, 0.001, True),
        (0.70, 0.695, 0.001, True),  # both fell: the distance is as it was
        (0.80, 0.785, 0.001, False),
        (0.80, 0.785, 0.02, True),  # not certain
        (0.80, 0.794, 0.0005, True),  # within the limit
        (0.75, 0.80, 0.001, True),
    ],
)
def test_the_distance_from_dense(dense: float, artifact: float, half: float, holds: bool) -> None:
    assert judge_gap(quality(dense, artifact, half=half), max_drop=0.002).holds is holds


def test_without_a_record_or_a_dense_model_it_is_said() -> None:
    nothing = replace(quality(0.80, 0.795), then={"dense": {}, "pruned": {}})
    assert judge_metric(nothing, None, 0.01).holds is None
    assert judge_gap(nothing, max_drop=0.002).holds is False  # against 0, for nothing else is known
    assert judge_gap(nothing, max_drop=0.01).holds is True
    alone = replace(quality(0.80, 0.795), now={"pruned": {"auc": 0.795}})
    assert judge_gap(alone, 0.002).holds is None
    assert "--model" in judge_gap(alone, 0.002).reason
