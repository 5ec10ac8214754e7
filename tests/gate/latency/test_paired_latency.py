"""The latency gate on samples whose truth is known, and its clock."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from recprune_export.evidence import Verdict
from recprune_export.gate import Evidence, collect_samples, compare_latency
from recprune_export.gate.gate_constants import MIN_PROCESSES
from recprune_export.gate.latency import paired_latency
from recprune_export.progress import quiet
from tests.gate.synthetic import synthetic

TOLERANCE = 0.05


class Clock:
    """A second passes with each process."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(paired_latency, "time", made)
    with quiet():
        yield made


def verdict(ratio: float, seed: int, clock: Clock, seconds: float = 60.0, scatter: float = 0.01) -> Verdict:
    evidence = collect_samples(ticking(synthetic(ratio, scatter, seed), clock), [8], TOLERANCE, seconds)
    (finding,) = compare_latency(evidence, TOLERANCE)
    return finding.verdict


def ticking(sample: paired_latency.Sampler, clock: Clock) -> paired_latency.Sampler:
    def ticks(batches: Sequence[int], number: int) -> Any:
        clock.now += 1.0
        return sample(batches, number)

    return ticks


@pytest.mark.parametrize("scatter", [0.005, 0.02, 0.05])
def test_equals_never_fail(scatter: float, clock: Clock) -> None:
    found = Counter(verdict(1.0, seed, clock, scatter=scatter) for seed in range(60))
    assert found[Verdict.FAILS] == 0
    if scatter < 0.05:
        assert found[Verdict.HOLDS] == 60


@pytest.mark.parametrize(("ratio", "scatter"), [(1.10, 0.02), (1.20, 0.05)])
def test_a_regression_is_found(ratio: float, scatter: float, clock: Clock) -> None:
    found = Counter(verdict(ratio, seed, clock, scatter=scatter) for seed in range(60))
    assert found[Verdict.FAILS] >= 57
    assert found[Verdict.HOLDS] == 0


def test_what_lies_at_the_limit_stays_open(clock: Clock) -> None:
    found = Counter(verdict(1.05, seed, clock, seconds=20.0) for seed in range(60))
    assert found[Verdict.UNDECIDED] > 30
    assert found[Verdict.FAILS] < 12


def test_what_is_faster_passes_at_once(clock: Clock) -> None:
    assert verdict(0.5, 0, clock) is Verdict.HOLDS
    assert clock.now == MIN_PROCESSES


def test_it_samples_more_only_what_is_open(clock: Clock) -> None:
    truths = {1: 1.0, 32: 1.05, 256: 1.5}
    evidence = collect_samples(ticking(synthetic(truths, scatter=0.01), clock), list(truths), TOLERANCE, 25.0)
    processes = {batch: len(of.log_ratios) for batch, of in evidence.items()}
    assert processes[1] < 15
    assert processes[256] < 15
    assert processes[32] == 25
    assert clock.now == 25.0


def test_the_time_limit_is_not_passed_but_by_the_first_processes(clock: Clock) -> None:
    verdict(1.05, 0, clock, seconds=0.0)
    assert clock.now == MIN_PROCESSES


def test_without_a_tolerance_nothing_is_decided(clock: Clock) -> None:
    evidence = collect_samples(ticking(synthetic(1.0), clock), [1], None, 12.0)
    assert len(evidence[1].log_ratios) == 12


def test_one_wild_process_does_not_move_the_ratio() -> None:
    evidence = Evidence([0.001, -0.002, 0.0, 0.6, 0.002, -0.001, 0.0, 0.001])
    assert evidence.ratio().estimate == pytest.approx(1.0, abs=0.002)


def test_both_orders_of_loading_are_used(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def fresh(function: str, **arguments: Any) -> Any:
        asked.append(arguments)
        return synthetic(1.0, seed=arguments["seed"])(arguments["batches"], 0)

    monkeypatch.setattr(paired_latency, "call_fresh", fresh)
    artifact = _Artifact()
    collect_samples(paired_latency.make_sampler(artifact, artifact, artifact.signature, 1), [1], TOLERANCE, 0.0)  # type: ignore[arg-type]
    assert [a["first"] for a in asked] == ["NEW", "BASE"] * (MIN_PROCESSES // 2)
    assert len({a["seed"] for a in asked}) == MIN_PROCESSES


class _Artifact:
    """As much of one as the sampler asks of it."""

    def __init__(self) -> None:
        from pathlib import Path

        from recprune_export.onnx import SessionOptions
        from tests.gate.models import Shape

        self.model, self.options, self.signature = Path("model.onnx"), SessionOptions(), Shape().signature()


def test_findings_say_by_how_much(clock: Clock) -> None:
    evidence = collect_samples(ticking(synthetic({1: 1.25, 8: 0.8}), clock), [1, 8], TOLERANCE, 60.0)
    slow, fast = compare_latency(evidence, TOLERANCE)
    assert (slow.gate, slow.verdict, fast.verdict) == ("latency, batch 1", Verdict.FAILS, Verdict.HOLDS)
    assert "% more time at batch 1" in slow.reason
    assert "% less time at batch 8" in fast.reason
    assert slow.new is not None
    assert slow.base is not None
    assert slow.new / slow.base == pytest.approx(1.25, rel=0.1)
    assert np.isfinite(slow.to_dict()["ratio"]["high"])
