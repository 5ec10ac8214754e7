from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recprune_export.errors import TooLittleTime
from recprune_export.evidence import Estimate, Verdict, judge_at_least
from recprune_export.latency_limit import LatencyLimit
from recprune_export.search.speed import measure_speedup as module
from recprune_export.search.speed.speed_search import MIN_TIME_FRACTION, TIME_STEP, shrink_until_fast
from recprune_export.search.speed.speed_target import LatencyTarget
from recprune_export.validation import PRUNED_ONNX


def measure(monkeypatch: pytest.MonkeyPatch, times: dict[int, float], limits: dict[int, float]) -> Estimate:
    """The headroom of a file whose calls take `times` by batch size, give or take 1 %."""
    rng = np.random.default_rng(0)

    def sessions(*given: Any, **options: Any) -> Any:
        return [
            {batch: {PRUNED_ONNX: time * rng.normal(1.0, 0.01, 50)} for batch, time in times.items()} for _ in range(6)
        ]

    monkeypatch.setattr(module, "measure_repeated_sessions", sessions)
    target = LatencyTarget.from_limits([LatencyLimit(limit, batch) for batch, limit in limits.items()])
    return target.measure(Path("dense"), Path("pruned"), {}, 0)


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        ({1: 0.2, 256: 2.0}, Verdict.HOLDS),
        ({1: 0.05, 256: 2.0}, Verdict.FAILS),
        ({1: 0.2, 256: 0.5}, Verdict.FAILS),
        ({1: 0.1, 256: 2.0}, Verdict.UNDECIDED),
    ],
)
def test_every_limit_has_to_hold(limits: dict[int, float], verdict: Verdict, monkeypatch: pytest.MonkeyPatch) -> None:
    headroom = measure(monkeypatch, {1: 0.1, 256: 1.0}, limits)
    assert judge_at_least(headroom, 1.0) is verdict


def test_the_time_is_said_with_threads_and_machine() -> None:
    target = LatencyTarget.from_limits([LatencyLimit(0.5, 256)], threads=2)
    text = target.describe(Estimate(2.0, 1.25, 2.5))
    assert text.startswith("0.25 [0.2, 0.4] ms (batch size 256, 2 threads of ")
    assert target.words == "at most 0.5 ms at batch size 256 on this machine"


@given(st.floats(0.01, 1.5), st.floats(0.01, 0.5), st.floats(0.7, 1.0))
def test_the_predicted_time_falls_until_the_file_is_fast(fast: float, least: float, used: float) -> None:
    """A file is fast whose plan is allowed at most the fraction `fast`, and takes `used` of it; no plan takes less than `least`."""
    tried: list[float] = []

    def speed(removed: float) -> Estimate:
        allowed = 1.0 - removed
        if allowed * used < least - 1e-9:
            raise TooLittleTime("none as fast")
        tried.append(allowed)
        value = fast / allowed
        return Estimate(value, value * (1 - 1e-9), value * (1 + 1e-9))

    bracket, _ = list(shrink_until_fast(speed, 1.0, lambda: used * tried[-1]))[-1]
    assert tried[0] == 1.0
    if bracket.upper < 1.0:
        assert 1.0 - bracket.upper <= fast * (1 + 1e-6)
        assert 1.0 - bracket.upper >= min(fast, 1.0) * used * TIME_STEP * (1 - 1e-6)
    else:
        assert fast < max(least / used, MIN_TIME_FRACTION) / (used * TIME_STEP)
