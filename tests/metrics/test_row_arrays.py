"""Metrics of rows whose numbers lie in files are those of rows in memory: any metric, with ties, weights, groups and gaps."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.data import LabelKind, Rows
from recprune_export.metrics import compare_quality, list_metric_names, make_evaluator, observe, row_arrays
from recprune_export.metrics.quality_comparison import IdFrequencies, QualityComparison
from recprune_export.settings import EvaluationSettings
from tests.row_sources import BatchesOnly, few_rows_in_memory

BINARY = list_metric_names([LabelKind.BINARY])


@st.composite
def labeled_rows(draw: st.DrawFn) -> Rows:
    """Rows with a label that some lack, and with or without weights, of which some are 0, and groups, of which some are none."""
    size = draw(st.integers(8, 60))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    labels = (rng.random(size) < 0.4).astype(np.float32)
    labels[rng.random(size) < draw(st.sampled_from([0.0, 0.2]))] = np.nan
    labels[:4] = (0, 1, 0, 1)
    groups = rng.integers(-1, draw(st.sampled_from([2, 9])), size)
    groups[:2] = 0
    weights = rng.integers(0, 4, size).astype(np.float32) if draw(st.booleans()) else None
    if weights is not None:
        weights[:4] = 1
    scores = rng.random((2, size)).round(draw(st.sampled_from([1, 6])))
    return Rows({"scores": scores.T.copy(), "x": np.arange(size)}, {"click": labels}, weights=weights, groups=groups)


def compare(rows: Rows, kind: LabelKind, names: tuple[str, ...], *, protocol_only: bool) -> QualityComparison:
    group = "user" if "gauc" in names else None
    evaluator = make_evaluator(EvaluationSettings(names, group), {"click": kind})
    source = BatchesOnly(rows) if protocol_only else rows
    models = (
        observe(lambda request, column=column: {"click": request["scores"][:, column]}, source, evaluator.kinds)
        for column in range(2)
    )
    counts = np.random.default_rng(0).integers(0, 20, len(rows))
    return compare_quality(evaluator, *models, IdFrequencies("rarest id of the row", counts))


def flatten(values: object, path: str = "") -> dict[str, object]:
    if isinstance(values, dict):
        return {key: value for name, inner in values.items() for key, value in flatten(inner, f"{path}/{name}").items()}
    if isinstance(values, list | tuple):
        return flatten(dict(enumerate(values)), path)
    return {path: values}


def check_same(rows: Rows, kind: LabelKind, names: tuple[str, ...]) -> None:
    in_memory = compare(rows, kind, names, protocol_only=False)
    with few_rows_in_memory():
        in_files = compare(rows, kind, names, protocol_only=True)
    assert set(in_memory.metrics["dense"]) == set(in_files.metrics["dense"])
    for part in ("metrics", "changes", "breakdown"):
        one, other = getattr(in_memory, part), getattr(in_files, part)
        if part == "changes":
            one, other = ({name: change.to_dict() for name, change in changes.items()} for changes in (one, other))
        elif part == "breakdown":
            one, other = one.to_dict(), other.to_dict()
        expected, actual = flatten(one), flatten(other)
        assert expected.keys() == actual.keys()
        for path, value in expected.items():
            if not isinstance(value, float):
                assert actual[path] == value, path
                continue
            # torchmetrics, for rows in memory without weights, computes in float32, and intervals of few rows grow exponentially.
            one_size, other_size = np.arcsinh([value, actual[path]])
            assert other_size == pytest.approx(one_size, rel=1e-5, abs=5e-6, nan_ok=True), path


@given(labeled_rows())
@settings(max_examples=15)
def test_clicks(rows: Rows) -> None:
    check_same(rows, LabelKind.BINARY, BINARY)


@given(labeled_rows())
@settings(max_examples=8)
def test_numbers(rows: Rows) -> None:
    check_same(rows, LabelKind.NUMBER, list_metric_names([LabelKind.NUMBER]))


def test_weighted_values_are_equal_to_rounding() -> None:
    """With weights both ways compute in float64."""
    rng = np.random.default_rng(0)
    size = 1000
    labels = (rng.random(size) < 0.3).astype(np.float32)
    rows = Rows(
        {"scores": rng.random((size, 2)).round(2)}, {"click": labels},
        weights=rng.random(size).astype(np.float32), groups=rng.integers(0, 50, size),
    )  # fmt: skip
    one = compare(rows, LabelKind.BINARY, BINARY, protocol_only=False)
    with few_rows_in_memory(100, 64):
        other = compare(rows, LabelKind.BINARY, BINARY, protocol_only=True)
    for name, change in one.changes.items():
        values, others = flatten(change.to_dict()), flatten(other.changes[name].to_dict())
        assert all(
            others[path] == pytest.approx(value, abs=1e-13) for path, value in values.items() if path != "/metric"
        )


def test_a_large_array_lies_in_a_file_and_takes_no_memory() -> None:
    with few_rows_in_memory(1000, 1000):
        array = row_arrays.make_row_array(2_000_000, np.float64)
        assert array.base is not None
        array[-1] = 1.0
        assert row_arrays.sum_over_rows(lambda piece: array[piece], len(array)) == 1.0


@given(st.lists(st.floats(-5, 5), min_size=4, max_size=40))
@settings(max_examples=40)
def test_quantiles_are_those_of_numpy(values: list[float]) -> None:
    array, fractions = np.array(values), np.arange(1, 10) / 10
    with few_rows_in_memory():
        np.testing.assert_allclose(
            row_arrays.find_quantiles(array, fractions), np.quantile(array, fractions), atol=1e-12
        )
