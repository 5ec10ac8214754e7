"""Values of the metrics are those of torchmetrics, and weights are copies of rows."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_auroc,
    binary_average_precision,
    binary_calibration_error,
    multiclass_accuracy,
    multiclass_calibration_error,
)
from torchmetrics.functional.regression import mean_absolute_error, mean_squared_error

from recprune_export.data import LabelKind
from recprune_export.metrics import Observations, Targets, find_metric, list_metric_names

BINARY = list_metric_names([LabelKind.BINARY])


def observe(
    predictions: np.ndarray,
    labels: np.ndarray,
    kind: LabelKind = LabelKind.BINARY,
    weights: np.ndarray | None = None,
    groups: np.ndarray | None = None,
) -> Observations:
    rows = np.arange(len(labels))
    return Observations(Targets("click", kind, labels, rows, len(labels), weights, groups), predictions)


def compute(name: str, observed: Observations) -> float:
    metric = find_metric(name)
    assert metric is not None
    return metric.compute(observed)


@st.composite
def binary_rows(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Predictions with ties, labels of both classes, whole weights and group codes, -1 for no group."""
    size = draw(st.integers(4, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    labels = (rng.random(size) < 0.4).astype(np.float32)
    labels[:4] = (0, 1, 0, 1)
    groups = rng.integers(-1, 4, size)
    groups[:2] = 0
    return rng.random(size).round(draw(st.integers(1, 6))), labels, rng.integers(1, 4, size).astype(np.float32), groups


@given(binary_rows())
@settings(max_examples=25)
def test_values_of_clicks_are_those_of_torchmetrics(rows: tuple[np.ndarray, ...]) -> None:
    predictions, labels, _, groups = rows
    p, y = torch.from_numpy(predictions), torch.from_numpy(labels).long()
    expected = {
        "auc": binary_auroc(p, y),
        "pr-auc": binary_average_precision(p, y),
        "ece": binary_calibration_error(p, y),
        "accuracy": binary_accuracy(p, y),
        "rmse": mean_squared_error(p, y.double(), squared=False),
        "mae": mean_absolute_error(p, y.double()),
    }
    observed = observe(predictions, labels, groups=groups)
    for name, value in expected.items():
        assert compute(name, observed) == pytest.approx(float(value), abs=2e-6), name
    areas, sizes = [], []
    for group in range(4):
        inside = groups == group
        if 0 < labels[inside].sum() < inside.sum():
            areas.append(float(binary_auroc(p[inside], y[inside])))
            sizes.append(inside.sum())
    assert compute("gauc", observed) == pytest.approx(np.average(areas, weights=sizes), abs=2e-6)


@given(binary_rows())
@settings(max_examples=25)
def test_a_row_of_weight_two_counts_as_two_rows(rows: tuple[np.ndarray, ...]) -> None:
    predictions, labels, weights, groups = rows
    copies = np.repeat(np.arange(len(labels)), weights.astype(int))
    weighted = observe(predictions, labels, weights=weights, groups=groups)
    repeated = observe(predictions[copies], labels[copies], groups=groups[copies])
    for name in BINARY:
        assert compute(name, weighted) == pytest.approx(compute(name, repeated), abs=2e-6), name


@given(binary_rows(), st.integers(0, 39))
@settings(max_examples=25)
def test_the_influence_of_a_row_is_the_change_by_a_little_more_weight(rows: tuple[np.ndarray, ...], row: int) -> None:
    predictions, labels, weights, groups = rows
    row %= len(labels)
    step = np.where(np.arange(len(labels)) == row, 1e-5, 0.0)
    less, before, more = (
        observe(predictions, labels, weights=weights * (1 + sign * step), groups=groups) for sign in (-1, 0, 1)
    )
    for name in (name for name in BINARY if name != "gauc"):
        metric = find_metric(name)
        assert metric is not None
        slope = (metric.compute(more) - metric.compute(before)) / 1e-5
        other = (metric.compute(before) - metric.compute(less)) / 1e-5
        if name == "ece" and abs(slope - other) > 1e-4:
            continue  # a bin without any error, where the absolute value has no derivative
        assert metric.influence(before)[row] == pytest.approx(slope, abs=1e-4), name


def test_classes_are_measured_as_classes() -> None:
    rng = np.random.default_rng(0)
    predictions = rng.dirichlet(np.ones(4), 300)
    labels = rng.integers(0, 4, 300).astype(np.float32)
    observed = observe(predictions, labels, LabelKind.CLASSES)
    p, y = torch.from_numpy(predictions), torch.from_numpy(labels).long()
    assert compute("logloss", observed) == pytest.approx(float(torch.nn.functional.nll_loss(p.log(), y)))
    assert compute("accuracy", observed) == pytest.approx(float(multiclass_accuracy(p, y, 4, average="micro")))
    assert compute("ece", observed) == pytest.approx(float(multiclass_calibration_error(p, y, 4)), abs=1e-6)


def test_auc_counts_ordered_pairs() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.random(50).round(1), rng.integers(2, size=50).astype(np.float32)
    above = scores[labels == 1][:, None] - scores[labels == 0][None, :]
    expected = float(((above > 0) + 0.5 * (above == 0)).mean())
    assert compute("auc", observe(scores, labels)) == pytest.approx(expected, abs=1e-6)


def test_logloss_of_certainty_is_finite() -> None:
    assert compute("logloss", observe(np.array([1.0, 0.0]), np.array([0.0, 0.0], dtype=np.float32))) < 30
    observed = observe(np.array([0.5, 0.5]), np.array([0.0, 1.0], dtype=np.float32))
    assert compute("logloss", observed) == pytest.approx(np.log(2))


@pytest.mark.parametrize("name", ["aucc", "ndcg", "ndcg@0", "ndcg@-1", "auc@10", ""])
def test_an_unknown_name_is_no_metric(name: str) -> None:
    assert find_metric(name) is None
