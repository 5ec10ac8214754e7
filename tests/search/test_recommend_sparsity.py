from collections.abc import Sequence

import pytest

from recprune_export.metrics import MetricChange
from recprune_export.search.recommend_sparsity import recommend_sparsity
from recprune_export.search.trials import Trial

SPARSITIES = (0.3, 0.5, 0.7, 0.9)


def make_trials(changes: Sequence[float], half: float) -> list[Trial]:
    return [
        Trial(sparsity, 0, MetricChange("auc", 0.8, 0.8 + change, change - half, change + half, half / 2.0, 1000))
        for sparsity, change in zip(SPARSITIES, changes, strict=True)
    ]


@pytest.mark.parametrize(
    ("changes", "half", "recommended"),
    [
        ((0.0004, 0.0006, 0.0009, 0.0012), 0.0005, 0.9),  # quality rises all the way
        ((0.0, 0.0, -0.0004, -0.01), 0.0005, 0.7),
        ((0.0, 0.0, 0.0, 0.0), 0.01, 0.9),  # the rows tell nothing, which the reason says
        ((-0.1, -0.1, -0.2, -0.3), 0.01, None),
        ((-0.1, -0.0015, -0.1, -0.3), 0.0004, 0.5),
    ],
)
def test_the_largest_sparsity_that_the_rows_support(
    changes: Sequence[float], half: float, recommended: float | None
) -> None:
    recommendation = recommend_sparsity(make_trials(changes, half), None, max_drop=0.002)
    assert recommendation.sparsity == recommended
    if half == 0.01 and recommended is not None:
        assert recommendation.reason.endswith("these 1,000 rows resolve +-0.01")
    assert ("cannot tell" in recommendation.reason) == (half == 0.01 and recommended is not None)


def test_a_knee_beyond_the_limit_is_not_recommended() -> None:
    trials = make_trials((0.0, 0.0, -0.02, -0.5), 0.0005)
    assert recommend_sparsity(trials, 2, max_drop=0.002).sparsity == 0.5
    assert recommend_sparsity(trials, 2, max_drop=0.1).sparsity == 0.7
