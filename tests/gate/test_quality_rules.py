"""The gate on quality: an interval decides, by what the two bundles record."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from recprune_export.evidence import Estimate, Verdict
from recprune_export.gate import Artifact, Limits, open_artifact
from recprune_export.gate.artifact import RecordedMetric
from recprune_export.gate.quality_rules import compare_quality, estimate_loss
from tests.gate.models import bundle

LIMITS = Limits()


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return open_artifact(bundle(tmp_path_factory.mktemp("quality") / "artifact"))


def recorded(value: float, error: float | None = 0.0001, **more: Any) -> RecordedMetric:
    return RecordedMetric(value, more.pop("greater_is_better", True), error, rows=1000, **more)


@pytest.mark.parametrize(
    ("name", "base", "new", "error", "verdict"),
    [
        ("auc", 0.80, 0.7995, 0.0001, "pass"),
        ("auc", 0.80, 0.78, 0.0001, "fail"),
        ("auc", 0.80, 0.90, 0.0001, "pass"),
        ("auc", 0.80, 0.7995, 0.001, "undecided"),
        ("auc", 0.80, 0.78, 0.01, "undecided"),
        ("click/auc", 0.80, 0.78, 0.0001, "fail"),
        ("logloss", 0.40, 0.3, 0.0001, "pass"),
        ("logloss", 0.40, 0.42, 0.0001, "fail"),
        ("logloss", 0.40, 0.42, 0.02, "undecided"),
        ("ndcg@10", 0.05, 0.04, 0.0001, "fail"),
        ("auc", 0.8, float("nan"), 0.0001, "fail"),
        ("auc", 0.8, None, 0.0001, "fail"),
        ("auc", 0.80, 0.70, None, "undecided"),
    ],
)
def test_quality(
    artifact: Artifact, name: str, base: float, new: float | None, error: float | None, verdict: str
) -> None:
    better = "logloss" not in name
    old = replace(artifact, metrics={name: recorded(base, error, greater_is_better=better)})
    metrics = {} if new is None else {name: recorded(new, error, greater_is_better=better)}
    candidate = replace(artifact, metrics=metrics, weights_sha256=("another",))
    (finding,) = compare_quality(candidate, old, LIMITS)
    assert finding.verdict.value == verdict
    assert name in finding.reason
    if verdict == "undecided":
        assert "inconclusive" in finding.reason
        assert ("1,000 rows give an interval of +-" in finding.reason) is (error is not None)


def test_a_metric_of_unknown_direction_is_not_judged(artifact: Artifact) -> None:
    unknown = replace(artifact, metrics={"surprise": RecordedMetric(0.8, None)})
    (finding,) = compare_quality(unknown, unknown, LIMITS)
    assert finding.verdict is Verdict.SKIPPED


def test_quality_of_other_rows_is_said(artifact: Artifact) -> None:
    new, base = (
        replace(artifact, metrics={"auc": recorded(0.8)}, data=data) for data in ("may.parquet", "june.parquet")
    )
    (finding,) = compare_quality(new, base, LIMITS)
    assert "may.parquet and june.parquet" in finding.reason


def test_the_same_model_has_the_same_quality(artifact: Artifact) -> None:
    same = replace(artifact, metrics={"auc": recorded(0.8, error=0.05)})
    assert estimate_loss(same, same, "auc") == Estimate(0.0, 0.0, 0.0)


def test_the_changes_from_one_dense_model_on_the_same_rows_bound_the_difference(artifact: Artifact) -> None:
    paired = replace(artifact, data_sha256="rows", dense_sha256="dense")
    base = replace(paired, metrics={"auc": recorded(0.80, 0.01, loss=Estimate(0.001, 0.0008, 0.0012))})
    new = replace(paired, metrics={"auc": recorded(0.7995, 0.01, loss=Estimate(0.0015, 0.0012, 0.0018))})
    loss = estimate_loss(new, base, "auc")
    assert (loss.estimate, loss.resolution) == (pytest.approx(0.0005), pytest.approx(0.0005))
    other = estimate_loss(replace(new, dense_sha256="another"), base, "auc")
    assert other.resolution == pytest.approx(1.96 * 0.01 * 2**0.5)
    assert compare_quality(new, base, Limits(max_drop=0.0011))[0].verdict is Verdict.HOLDS


@pytest.mark.parametrize("rows", [200, 1000, 5000])
def test_verdicts_at_the_limit_err_at_most_in_the_stated_share(artifact: Artifact, rows: int) -> None:
    """Two models whose accuracy differs by exactly the limit, each on rows of its own; errors as a bundle records them."""
    rng, trials, limit = np.random.default_rng(rows), 500, 0.05
    counts = {Verdict.HOLDS: 0, Verdict.FAILS: 0, Verdict.UNDECIDED: 0}
    for _ in range(trials):
        bundles = []
        for accuracy in (0.75, 0.75 - limit):
            hits = rng.random(rows) < accuracy
            metric = recorded(float(hits.mean()), float(hits.std() / rows**0.5))
            bundles.append(replace(artifact, metrics={"accuracy": metric}, weights_sha256=(str(accuracy),)))
        (finding,) = compare_quality(bundles[1], bundles[0], Limits(max_drop=limit))
        counts[finding.verdict] += 1
    noise = 3 * (0.025 * 0.975 / trials) ** 0.5
    assert max(counts[Verdict.HOLDS], counts[Verdict.FAILS]) / trials <= 0.025 + noise
