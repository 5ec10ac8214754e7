"""The search on a curve that is known, without any model."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.errors import TooFewBytes
from recprune_export.evidence import Verdict
from recprune_export.metrics import MetricChange
from recprune_export.search import OperatingPoint, Trial
from recprune_export.search.bisection import MAX_SPARSITY, STEP
from recprune_export.search.max_drop import SEEDS, DropClaim, confirm_point, find_point_within_drop

CLAIM = DropClaim(0.01)


class CurveTrials:
    """Trials whose metric falls by `CLAIM` where the density is `edge`, steeper below; none has less than `least`."""

    def __init__(self, edge: float, least: float = 0.0, worse_seed: float = 1.0) -> None:
        self.edge, self.least, self.worse_seed = edge, least, worse_seed
        self.results: dict[Any, Trial] = {}

    def run(self, point: OperatingPoint, seed: int | None = None) -> Trial:
        if point.density < self.least:
            raise TooFewBytes("too few")
        seed = seed or 0
        edge = self.edge * (self.worse_seed if seed else 1.0)
        loss = CLAIM.max_drop * (edge / point.density) ** 2
        change = MetricChange("auc", 0.8, 0.8 - loss, -loss - 1e-9, -loss + 1e-9, 1e-9, 1000)
        return self.results.setdefault((point, seed), Trial(point, seed, change))

    @property
    def completed(self) -> tuple[Trial, ...]:
        return tuple(self.results.values())


def search(trials: CurveTrials, kind: Any = "bytes", **options: Any) -> Any:
    return find_point_within_drop(trials, CLAIM, kind, 0.1, **options)  # type: ignore[arg-type]


@given(st.floats(0.003, 0.9), st.sampled_from(["bytes", "sparsity"]))
@settings(max_examples=60)
def test_the_least_density_that_holds_is_found_up_to_a_step(edge: float, kind: str) -> None:
    result = search(CurveTrials(edge), kind)
    assert result.verdict is Verdict.HOLDS
    assert len(result.confirmed) == SEEDS
    assert all(trial.judge(CLAIM.max_drop) is Verdict.HOLDS for trial in result.confirmed)
    assert result.point.density >= edge
    assert result.point.density <= max(edge, 1.0 - MAX_SPARSITY) * STEP * 1.01


@given(st.floats(0.01, 0.4), st.floats(0.05, 0.5))
@settings(max_examples=60)
def test_no_trial_has_more_bytes_than_the_limit(edge: float, limit: float) -> None:
    trials = CurveTrials(edge)
    result = search(trials, limit=limit)
    most = OperatingPoint("bytes", limit)
    assert all(trial.point.density <= most.density + 1e-9 for trial in trials.completed)
    assert (result.point is None) == (edge >= most.density)


@given(st.floats(0.01, 0.2), st.floats(0.02, 0.3))
@settings(max_examples=40)
def test_bytes_that_no_plan_has_fail(edge: float, least: float) -> None:
    result = search(CurveTrials(edge, least))
    assert result.point.density >= max(edge, least)
    assert result.point.density <= max(edge, least, 1.0 - MAX_SPARSITY) * STEP * 1.01


def test_a_limit_that_no_plan_has_is_an_error() -> None:
    with pytest.raises(TooFewBytes):
        search(CurveTrials(0.05, least=0.2), limit=0.1)


def test_a_second_seed_sends_the_search_back() -> None:
    alone, both = search(CurveTrials(0.05)), search(CurveTrials(0.05, worse_seed=1.3))
    assert both.point.density > alone.point.density
    assert both.point.density >= 0.05 * 1.3
    assert both.point.density <= 0.05 * 1.3 * STEP * STEP


def test_one_point_is_judged_alone() -> None:
    trials = CurveTrials(0.05)
    good = confirm_point(trials, CLAIM, OperatingPoint("sparsity", 0.9))  # type: ignore[arg-type]
    bad = confirm_point(trials, CLAIM, OperatingPoint("sparsity", 0.97))  # type: ignore[arg-type]
    assert good.point == OperatingPoint("sparsity", 0.9)
    assert bad.point is None
    assert [trial.seed for trial in bad.trials] == [0, 1]
    assert {trial.point.value for trial in bad.trials} == {0.97}  # not those of another point


def test_trials_of_other_kinds_are_not_those_of_the_search() -> None:
    trials = CurveTrials(0.05)
    trials.run(OperatingPoint("sparsity", 0.1))
    result = search(trials)
    assert {trial.point.kind for trial in result.trials} == {"bytes"}
