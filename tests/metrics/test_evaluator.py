"""Which metrics are defined on which rows, which one decides, and the sentences about both."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.data import LabelKind, Rows
from recprune_export.errors import DataError, UsageError
from recprune_export.metrics import LabelPredictor, compare_quality, make_evaluator, observe
from recprune_export.metrics.quality_comparison import IdFrequencies
from recprune_export.settings import EvaluationSettings

BINARY, NUMBER, NEXT_ITEM = LabelKind.BINARY, LabelKind.NUMBER, LabelKind.NEXT_ITEM
USUAL = EvaluationSettings()


def rows(groups: list[int] | None = None, **labels: list[float | None]) -> Rows:
    arrays = {name: np.array(values, dtype=np.float32) for name, values in labels.items()}
    count = len(next(iter(arrays.values())))
    codes = None if groups is None else np.array(groups)
    return Rows({"x": np.arange(count)}, arrays, groups=codes)


def random_model(rows: Rows, seed: int = 0) -> LabelPredictor:
    values = np.random.default_rng(seed).random(len(rows))
    return lambda request: dict.fromkeys(rows.labels, values[request["x"]])


@pytest.mark.parametrize(
    ("labels", "metric", "reason"),
    [
        ([0, 0, 0], "logloss", "no positive row in valid ('click', 3 rows)"),
        ([1, 1, None], "logloss", "no negative row in valid ('click', 2 rows)"),
    ],
)
def test_an_undefined_metric_is_left_out_and_the_next_one_decides(
    labels: list[float | None], metric: str, reason: str
) -> None:
    evaluator, data = make_evaluator(USUAL, {"click": BINARY}), rows(click=labels)
    assert evaluator.require_deciding(data, "valid").name == metric
    assert set(evaluator.evaluate(random_model(data), data)) == {"logloss"}
    assert evaluator.notes({"valid": data}) == (
        f"auc is left out: {reason}.",
        "logloss is used for decisions on the valid rows, since auc is not defined on them.",
    )


def test_without_any_label_nothing_is_measured_and_that_is_said_before_the_work() -> None:
    evaluator, data = make_evaluator(USUAL, {"click": BINARY}), rows(click=[None, None])
    assert evaluator.evaluate(random_model(data), data) == {}
    with pytest.raises(
        DataError, match=r"No metric can be computed on the valid rows: no row with the label 'click' in valid"
    ):
        evaluator.require_deciding(data, "valid")
    only = make_evaluator(EvaluationSettings(("auc",)), {"click": BINARY})
    with pytest.raises(DataError, match=r"no positive row .* --metric with one of logloss, rmse"):
        only.require_deciding(rows(click=[0, 0]), "valid")


def test_the_mean_is_over_the_labels_that_define_the_metric() -> None:
    evaluator = make_evaluator(USUAL, {"click": BINARY, "buy": BINARY, "like": BINARY})
    some = rows(click=[0, 1, 1], buy=[0, 0, 0], like=[1, 0, None])
    assert evaluator.require_deciding(some, "valid").name == "mean auc"
    assert "buy/auc" not in evaluator.evaluate(random_model(some), some)
    one = rows(click=[0, 1, 1], buy=[0, 0, 0], like=[1, 1, 1])
    assert evaluator.require_deciding(one, "valid").name == "click/auc"


def test_labels_of_other_kinds_have_other_metrics_and_do_not_decide() -> None:
    evaluator = make_evaluator(USUAL, {"click": BINARY, "stars": NUMBER})
    data = rows(click=[0, 1, 1], stars=[1, 5, 3])
    names = {"click/auc", "click/logloss", "click/rmse", "click/mae", "stars/rmse", "stars/mae"}
    assert set(evaluator.evaluate(random_model(data), data)) == names
    assert evaluator.require_deciding(data, "valid").name == "click/auc"
    assert "'stars' is not used for decisions" in evaluator.notes({"valid": data})[0]


@pytest.mark.parametrize(
    ("metrics", "group", "kind", "message"),
    [
        (("aucc",), None, BINARY, "'aucc' is not a metric.*choose from auc, logloss, pr-auc"),
        (("auc",), None, NUMBER, "--metric auc is not defined for labels of the kind 'number': choose from rmse, mae"),
        (("rmse",), None, NEXT_ITEM, "choose from mrr, ndcg@10, hr@10, recall@10"),
        (("ndcg",), None, NEXT_ITEM, "any number may follow @"),
        (("gauc",), None, BINARY, "--group"),
        ((), "user", BINARY, "--metric gauc"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused_with_those_that_do(
    metrics: tuple[str, ...], group: str | None, kind: LabelKind, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        make_evaluator(EvaluationSettings(metrics, group), {"label": kind})


def test_groups_of_one_class_and_rows_without_a_group_do_not_count() -> None:
    evaluator = make_evaluator(EvaluationSettings(("gauc", "AUC"), "user"), {"click": BINARY})
    data = rows([0, 0, 1, 1, -1], click=[0, 1, 1, 1, 0])
    predict: LabelPredictor = lambda request: {"click": np.array([0.1, 0.9, 0.2, 0.3, 1.0])[request["x"]]}  # noqa: E731
    assert evaluator.evaluate(predict, data)["gauc"] == 1.0
    apart = rows([0, 1, 1], click=[0, 1, 1])
    assert evaluator.require_deciding(apart, "valid").name == "auc"
    assert "no group with a positive and a negative row" in evaluator.notes({"valid": apart})[0]


@given(st.lists(st.sampled_from([0.0, 1.0, None]), min_size=1, max_size=12), st.integers(0, 99))
@settings(max_examples=60)
def test_any_labels_give_finite_metrics_or_a_reason(labels: list[float | None], seed: int) -> None:
    names = ("auc", "logloss", "pr-auc", "gauc", "ece", "accuracy", "rmse", "mae")
    evaluator = make_evaluator(EvaluationSettings(names, "user"), {"click": BINARY})
    data = rows(list(range(-1, len(labels) - 1)), click=labels)
    values = evaluator.evaluate(random_model(data, seed), data)
    omitted = {omission.metric.name for omission in evaluator.omissions(data)}
    assert set(values) | omitted == set(names)
    assert not set(values) & omitted
    assert np.isfinite(list(values.values())).all()
    answers = (observe(random_model(data, s), data, evaluator.kinds) for s in (seed, seed + 1))
    change = compare_quality(evaluator, *answers, None).change
    assert (change is None) == (not values)
    if change is not None:
        assert change.low <= change.change <= change.high


def test_quality_is_divided_by_the_frequency_of_ids_and_calibration_stands_beside_it() -> None:
    rng = np.random.default_rng(0)
    data = rows(click=(rng.random(400) < 0.3).astype(float).tolist())
    evaluator = make_evaluator(USUAL, {"click": BINARY})
    dense, pruned = (observe(random_model(data, seed), data, evaluator.kinds) for seed in (1, 2))
    counts = np.repeat([0, 5, 10, 5000], 100)
    quality = compare_quality(evaluator, dense, pruned, IdFrequencies("rarest id of the row", counts))
    assert quality.breakdown is not None
    buckets = quality.breakdown.buckets
    assert [(b.least, b.most, b.rows) for b in buckets] == [(0, 0, 100), (1, 9, 100), (10, 99, 100), (100, None, 100)]
    for bucket in buckets:
        assert bucket.change is not None
        assert bucket.change.after == bucket.metrics["pruned"]["auc"]
    calibration = quality.breakdown.calibration["click"]["pruned"]
    assert calibration.observed == pytest.approx(data.labels["click"].mean())
    assert calibration.ece == pytest.approx(
        sum(b.rows * abs(b.predicted - b.observed) for b in calibration.bins) / 400, abs=1e-6
    )
    assert quality.breakdown.to_dict()["buckets"][0]["change"]["metric"] == "auc"
