import numpy as np
import pytest
from recprune_export.training.metrics import auc

from recprune_export.data import Rows
from recprune_export.training import LabelPredictor, MetricChange, paired_change

ROWS = 4000
rng = np.random.default_rng(0)
TRUTH = rng.normal(size=ROWS)
LABELS = (rng.random(ROWS) < 1 / (1 + np.exp(-TRUTH))).astype(np.float32)
DATA = Rows({"x": np.arange(ROWS)}, {"click": LABELS})


def model(noise: float, digits: int = 9, seed: int = 1) -> LabelPredictor:
    values = (TRUTH + noise * np.random.default_rng(seed).normal(size=ROWS)).round(digits)
    return lambda request: {"click": values[request["x"]]}


@pytest.mark.parametrize("digits", [9, 0])
def test_both_metrics_are_the_areas_of_torchmetrics(digits: int) -> None:
    change = paired_change(model(0.1, digits), model(1.0, digits), DATA)
    rows = {"x": np.arange(ROWS)}
    assert change.before == pytest.approx(auc(model(0.1, digits)(rows)["click"], LABELS), abs=1e-6)
    assert change.after == pytest.approx(auc(model(1.0, digits)(rows)["click"], LABELS), abs=1e-6)
    assert change.low < change.change < change.high < 0.0


def test_rows_that_do_not_fit_in_memory_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = paired_change(model(0.3), model(0.4), DATA)
    monkeypatch.setattr("recprune_export.metrics._paired_change.MAX_COUNTS_IN_MEMORY", 70 * ROWS)
    assert paired_change(model(0.3), model(0.4), DATA) == whole
    assert whole.rows == ROWS
    assert MetricChange.from_dict(whole.to_dict()) == whole


def test_a_model_does_not_differ_from_itself() -> None:
    change = paired_change(model(0.3), model(0.3), DATA)
    assert (change.change, change.low, change.high) == (0.0, 0.0, 0.0)


def test_rows_are_paired() -> None:
    """Two models that err alike are told apart far better than by the spread of one of them."""
    change = paired_change(model(1.0), model(1.02), DATA)
    half = len(LABELS) ** -0.5
    assert change.high - change.low < 0.2 * half


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for draw in range(40):
        own = np.random.default_rng(draw + 10)
        truth = own.normal(size=600)
        labels = (own.random(600) < 1 / (1 + np.exp(-truth))).astype(np.float32)
        a, b = (truth + own.normal(size=600) for _ in range(2))  # equally good
        rows = Rows({"x": np.arange(600)}, {"click": labels})
        change = paired_change(
            lambda r, a=a: {"click": a[r["x"]]},
            lambda r, b=b: {"click": b[r["x"]]},
            rows,  # type: ignore[misc]
        )
        covered += change.low <= 0.0 <= change.high
    assert covered >= 34


def test_the_error_is_that_of_the_area_itself() -> None:
    """Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve", equation 1."""
    change = paired_change(model(0.3), model(1.0), DATA)
    area, positive = change.after, LABELS.sum()
    negative = ROWS - positive
    both, other = area / (2 - area), 2 * area**2 / (1 + area)
    spread = (positive - 1) * (both - area**2) + (negative - 1) * (other - area**2) + area * (1 - area)
    assert change.error == pytest.approx((spread / positive / negative) ** 0.5, rel=0.15)


def test_a_change_survives_its_json() -> None:
    change = MetricChange("auc", 0.8, 0.79, -0.012, -0.008, 0.003)
    assert MetricChange.from_dict(change.to_dict()) == change
