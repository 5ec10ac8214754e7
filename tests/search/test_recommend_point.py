from collections.abc import Sequence

import pytest

from recprune_export.evidence import Estimate
from recprune_export.metrics import MetricChange
from recprune_export.search import ArtifactMeasurements, OperatingPoint, Trial
from recprune_export.search.recommend_point import recommend_point

POINTS = (
    OperatingPoint("sparsity", 0.5),
    OperatingPoint("sparsity", 0.9),
    OperatingPoint("bytes", 0.1),
    OperatingPoint("dense int8", 0.0),
)
BYTES = (500, 300, 100, 260)


def make_trials(changes: Sequence[float], half: float) -> list[Trial]:
    return [
        Trial(
            point,
            0,
            MetricChange("auc", 0.8, 0.8 + change, change - half, change + half, half / 2.0, 1000),
            ArtifactMeasurements(10, 10, size, {1: 0.1}, {1: Estimate(2.0, 1.9, 2.1)}),
        )
        for point, size, change in zip(POINTS, BYTES, changes, strict=True)
    ]


@pytest.mark.parametrize(
    ("changes", "half", "recommended"),
    [
        ((0.0, 0.0, 0.0, 0.0), 0.0005, 2),
        ((0.0, 0.0, -0.01, 0.0), 0.0005, 3),
        ((0.0, 0.0, -0.01, -0.01), 0.0005, 1),
        ((0.0, 0.0, 0.0, 0.0), 0.01, 2),  # the rows tell nothing, which the reason says
        ((-0.1, -0.1, -0.2, -0.3), 0.01, None),
        ((-0.0015, -0.1, -0.1, -0.3), 0.0004, 0),
    ],
)
def test_the_smallest_file_that_the_rows_support(
    changes: Sequence[float], half: float, recommended: int | None
) -> None:
    recommendation = recommend_point(make_trials(changes, half), max_drop=0.002)
    assert recommendation.point == (None if recommended is None else POINTS[recommended])
    if half == 0.01 and recommended is not None:
        assert recommendation.reason.endswith("these 1,000 rows give an interval of +-0.01")
    assert ("inconclusive" in recommendation.reason) == (half == 0.01 and recommended is not None)
