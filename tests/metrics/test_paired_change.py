import numpy as np
import pytest

from recprune_export.data import LabelKind
from recprune_export.evidence import Verdict, judge_at_most
from recprune_export.metrics import (
    DecidingMetric,
    MetricChange,
    Observations,
    Targets,
    find_metric,
    list_metric_names,
    paired_change,
)

ROWS = 4000
rng = np.random.default_rng(0)
TRUTH = rng.normal(size=ROWS)
LABELS = (rng.random(ROWS) < 1 / (1 + np.exp(-TRUTH))).astype(np.float32)


def observe(
    predictions: np.ndarray,
    labels: np.ndarray,
    kind: LabelKind = LabelKind.BINARY,
    groups: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> Observations:
    rows = np.arange(len(labels))
    return Observations(Targets("click", kind, labels, rows, len(labels), weights, groups), predictions)


def change(name: str, before: Observations, after: Observations) -> MetricChange:
    metric = find_metric(name)
    assert metric is not None
    return paired_change(DecidingMetric(name, metric, ("click",)), {"click": before}, {"click": after})


def model(noise: float, digits: int = 9, seed: int = 1) -> Observations:
    scores = TRUTH + noise * np.random.default_rng(seed).normal(size=ROWS)
    return observe((1 / (1 + np.exp(-scores))).round(digits), LABELS, groups=np.arange(ROWS) % 200)


@pytest.mark.parametrize("name", list_metric_names([LabelKind.BINARY]))
def test_a_worse_model_has_a_loss_and_the_same_one_none(name: str) -> None:
    worse = change(name, model(0.1), model(1.0))
    loss = worse.loss
    assert loss.low < loss.estimate < loss.high
    assert loss.low > 0.0 or name == "ece"
    same = change(name, model(0.3), model(0.3))
    assert (same.change, same.low, same.high) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", ["auc", "pr-auc", "gauc", "logloss", "rmse", "mae", "accuracy"])
def test_the_interval_is_that_of_a_bootstrap_of_many_rows(name: str) -> None:
    before, after = model(0.3, 2), model(0.6, 2)
    metric = find_metric(name)
    assert metric is not None
    draws = []
    groups = np.arange(ROWS) % 200
    for seed in range(150):
        own = np.random.default_rng(seed)
        if name == "gauc":  # whole groups are drawn, and count as often as they are
            drawn = [np.flatnonzero(groups == group) for group in own.integers(0, 200, 200)]
            rows, codes = np.concatenate(drawn), np.repeat(np.arange(200), [len(d) for d in drawn])
        else:
            rows, codes = own.integers(0, ROWS, ROWS), groups
        values = [metric.compute(observe(o.predictions[rows], LABELS[rows], groups=codes)) for o in (before, after)]
        draws.append(values[1] - values[0])
    result = change(name, before, after)
    assert (result.high - result.low) / 2 == pytest.approx(1.96 * np.std(draws), rel=0.2)


@pytest.mark.parametrize("name", ["auc", "pr-auc", "gauc"])
@pytest.mark.parametrize(("rows", "verdict"), [(6, Verdict.UNDECIDED), (60, Verdict.UNDECIDED), (4000, Verdict.HOLDS)])
def test_that_few_rows_stay_in_order_is_no_evidence(name: str, rows: int, verdict: Verdict) -> None:
    labels, groups = np.arange(rows) % 2, np.arange(rows) // 2 % max(rows // 20, 1)
    scores = np.random.default_rng(0).permutation(rows) / (2.0 * rows)
    before, after = (observe(s, labels.astype(np.float32), groups=groups) for s in (scores, scores + 1e-3 * scores**2))
    result = change(name, before, after)
    assert result.change == pytest.approx(0.0, abs=1e-12)
    assert result.low < 0.0 < result.high
    assert judge_at_most(result.loss, 0.001) is verdict


def test_rows_are_paired() -> None:
    """Two models that err alike are told apart far better than by the spread of one of them."""
    result = change("auc", model(1.0), model(1.02))
    assert result.high - result.low < 0.2 * result.error * 4


def test_the_error_is_that_of_the_area_itself() -> None:
    """Hanley and McNeil 1982, "The meaning and use of the area under a ROC curve", equation 1."""
    result = change("auc", model(0.3), model(1.0))
    area, positive = result.after, LABELS.sum()
    negative = ROWS - positive
    both, other = area / (2 - area), 2 * area**2 / (1 + area)
    spread = (positive - 1) * (both - area**2) + (negative - 1) * (other - area**2) + area * (1 - area)
    assert result.error == pytest.approx((spread / positive / negative) ** 0.5, rel=0.15)


def test_a_mean_over_labels_has_the_interval_of_the_mean() -> None:
    """The same label twice is the label itself; a label that half of the rows lack counts on the others."""
    metric = find_metric("auc")
    assert metric is not None
    before, after = model(0.3), model(0.6)
    both = DecidingMetric("mean auc", metric, ("a", "b"))
    twice = paired_change(both, {"a": before, "b": before}, {"a": after, "b": after})
    once = change("auc", before, after)
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), abs=1e-9)
    half = np.arange(0, ROWS, 2)
    apart = paired_change(both, {"a": before, "b": before.take(half)}, {"a": after, "b": after.take(half)})
    assert once.high - once.low < apart.high - apart.low
    assert apart.rows == ROWS


def test_no_changed_row_of_a_few_does_not_show_that_none_changes() -> None:
    ranks = np.arange(40)
    before, after = (
        Observations(Targets("click", LabelKind.NEXT_ITEM, ranks, ranks, 40), ranks, scores)
        for scores in (np.zeros(40), np.ones(40))
    )
    result = change("hr@10", before, after)
    assert result.change == 0.0
    assert result.low < -0.03 < 0.03 < result.high


@pytest.mark.parametrize("name", ["auc", "pr-auc", "logloss"])
def test_a_single_positive_row_resolves_nothing_about_order(name: str) -> None:
    labels = np.zeros(50, dtype=np.float32)
    labels[3] = 1.0
    scores = np.random.default_rng(0).random((2, 50))
    result = change(name, *(observe(s, labels) for s in scores))
    assert np.isfinite([result.low, result.high]).all()
    assert name == "logloss" or result.high - result.low >= 2.0


def binormal(rows: int, positives: int, draw: int, shifts: tuple[float, float]) -> tuple[Observations, Observations]:
    """Scores of two models whose AUC is Φ(shift / √2) each, from correlated errors."""
    own = np.random.default_rng(draw)
    labels = np.zeros(rows, dtype=np.float32)
    labels[:positives] = 1.0
    first, second = own.normal(size=(2, rows))
    scores = (shifts[0] * labels + first, shifts[1] * labels + 0.9 * first + 0.19**0.5 * second)
    ones = np.ones(
        rows
    )  # with weights the area is summed here, in a hundredth of the time of torchmetrics for few rows
    before, after = (observe(1 / (1 + np.exp(-s)), labels, weights=ones) for s in scores)
    return before, after


def error_rates(rows: int, positives: int, draws: int, shifts: tuple[float, float]) -> tuple[float, float]:
    """Return how often "holds" is said of a limit just below the true loss, and "fails" of the true loss itself."""
    from statistics import NormalDist

    areas = [NormalDist().cdf(shift / 2**0.5) for shift in shifts]
    true_loss = areas[0] - areas[1]
    losses = [change("auc", *binormal(rows, positives, draw, shifts)).loss for draw in range(draws)]
    holds, fails = (
        np.mean([judge_at_most(loss, limit) is verdict for loss in losses])
        for limit, verdict in ((true_loss - 1e-9, Verdict.HOLDS), (true_loss, Verdict.FAILS))
    )
    return float(holds), float(fails)


def allowed_rate(draws: int) -> float:
    """Return 2.5 % and three standard errors."""
    return 0.025 + 3 * (0.025 * 0.975 / draws) ** 0.5


@pytest.mark.parametrize("shifts", [(1.0, 0.8), (2.5, 2.2)])
def test_a_claim_about_few_rows_errs_as_seldom_as_it_says(shifts: tuple[float, float]) -> None:
    assert max(error_rates(200, 20, 300, shifts)) <= allowed_rate(300)


@pytest.mark.slow
@pytest.mark.parametrize("shifts", [(1.0, 1.0), (1.0, 0.8), (2.0, 1.6), (3.0, 2.6), (3.0, 3.0)])
@pytest.mark.parametrize(("rows", "positives", "draws"), [(200, 20, 3000), (2000, 200, 2000), (20_000, 400, 600)])
def test_claims_err_as_seldom_as_they_say(rows: int, positives: int, draws: int, shifts: tuple[float, float]) -> None:
    assert max(error_rates(rows, positives, draws, shifts)) <= allowed_rate(draws)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ndcg@10", "hr@10", "mrr", "recall@50"])
@pytest.mark.parametrize(("rows", "share"), [(200, 0.02), (200, 0.3), (2000, 0.05), (20_000, 0.02)])
def test_claims_about_rankings_err_as_seldom_as_they_say(name: str, rows: int, share: float) -> None:
    """A `share` of the targets of one model falls from anywhere to the end of 500 items: the true loss is known."""
    draws, metric = 1000, find_metric(name)
    assert metric is not None
    losses = []
    every = np.arange(500)
    true_loss = share * metric.compute(observe(every, every, LabelKind.NEXT_ITEM))
    true_loss -= share * metric.compute(observe(np.full(1, 500), np.zeros(1), LabelKind.NEXT_ITEM))
    for draw in range(draws):
        own = np.random.default_rng(draw)
        before = own.integers(0, 500, rows)
        after = np.where(own.random(rows) < share, 500, before)
        losses.append(change(name, *(observe(r, r, LabelKind.NEXT_ITEM) for r in (before, after))).loss)
    assert np.mean([judge_at_most(loss, true_loss - 1e-9) is Verdict.HOLDS for loss in losses]) <= allowed_rate(draws)
    assert np.mean([judge_at_most(loss, true_loss) is Verdict.FAILS for loss in losses]) <= allowed_rate(draws)


def test_a_change_survives_its_json() -> None:
    result = MetricChange("rmse", 0.8, 0.79, -0.012, -0.008, 0.003, greater_is_better=False)
    assert MetricChange.from_dict(result.to_dict()) == result
    recorded_before = {name: v for name, v in result.to_dict().items() if name != "greater_is_better"}
    assert MetricChange.from_dict(recorded_before).greater_is_better
