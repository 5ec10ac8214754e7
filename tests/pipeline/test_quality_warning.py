"""A large loss is said in a sentence, by its interval; what few rows cannot tell is said as well."""

import pytest

from recprune_export.evidence import Verdict
from recprune_export.metrics import MetricChange
from recprune_export.pipeline.quality_warning import judge_quality


@pytest.mark.parametrize(
    ("metric", "before", "change", "half", "greater_is_better", "verdict"),
    [
        ("auc", 0.80, -0.0321, 0.004, True, Verdict.FAILS),
        ("auc", 0.80, -0.0010, 0.0005, True, Verdict.HOLDS),
        ("auc", 0.80, +0.0100, 0.0050, True, Verdict.HOLDS),
        ("auc", 0.80, -0.0321, 0.040, True, Verdict.UNDECIDED),
        ("auc", 0.80, +0.0157, 0.0180, True, Verdict.UNDECIDED),
        ("mean auc", 0.80, -0.0030, 0.0005, True, Verdict.FAILS),
        ("ndcg@10", 0.05, -0.0015, 0.0005, True, Verdict.FAILS),
        ("ndcg@10", 0.05, -0.0004, 0.00005, True, Verdict.HOLDS),
        ("rmse", 1.10, +0.0500, 0.0100, False, Verdict.FAILS),
        ("rmse", 1.10, -0.0500, 0.0100, False, Verdict.HOLDS),
        ("click/logloss", 0.40, +0.0030, 0.0005, False, Verdict.HOLDS),
        ("click/logloss", 0.40, +0.0060, 0.0005, False, Verdict.FAILS),
    ],
)
def test_a_loss_is_judged_by_its_interval(
    metric: str, before: float, change: float, half: float, greater_is_better: bool, verdict: Verdict
) -> None:
    measured = MetricChange(
        metric, before, before + change, change - half, change + half, 0.01, 4000, greater_is_better=greater_is_better
    )
    quality = judge_quality(measured)
    assert quality.verdict is verdict, quality.sentence
    assert (quality.warning is None) is (verdict is Verdict.HOLDS)
    assert "4,000" in quality.sentence
    if verdict is Verdict.FAILS:
        direction = "fell" if greater_is_better else "rose"
        assert quality.sentence.startswith(f"{metric} {direction} by {abs(change):.4f} [{abs(change) - half:.4f}, ")
    if verdict is Verdict.UNDECIDED:
        assert "these 4,000 test rows give an interval of +-" in quality.sentence
    assert quality.to_dict()["verdict"] == verdict.words
