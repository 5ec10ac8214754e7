"""Rules without statistics, by table."""

from dataclasses import replace
from pathlib import Path

import pytest

from recprune_export.gate.artifact import Artifact, open_artifact
from recprune_export.gate.findings import Finding, Verdict, overall
from recprune_export.gate.limits import GATES, Limits
from recprune_export.gate.rules import judge_costs, judge_figures, judge_growth, judge_quality
from recprune_export.validation.footprint import Footprint, FootprintReport
from tests.gate.models import Shape, bundle, plain


@pytest.mark.parametrize(
    ("new", "base", "tolerance", "slack", "verdict"),
    [
        (100, 100, 0.05, 0, "pass"),
        (105, 100, 0.05, 0, "pass"),
        (106, 100, 0.05, 0, "fail"),
        (50, 100, 0.0, 0, "pass"),
        (101, 100, 0.0, 0, "fail"),
        (1, 0, 0.05, 0, "fail"),
        (0, 0, 0.05, 0, "pass"),
        (14, 10, 0.05, 5, "pass"),
        (16, 10, 0.05, 5, "fail"),
    ],
)
def test_growth(new: float, base: float, tolerance: float, slack: float, verdict: str) -> None:
    found = judge_growth("nodes", "", new, base, Limits(tolerance), slack)
    assert (found.verdict.value, found.new, found.base) == (verdict, new, base)


@pytest.mark.parametrize(
    ("name", "base", "new", "verdict"),
    [
        ("auc", 0.80, 0.7995, "pass"),
        ("auc", 0.80, 0.78, "fail"),
        ("auc", 0.80, 0.90, "pass"),
        ("click/auc", 0.80, 0.78, "fail"),
        ("logloss", 0.40, 0.3, "pass"),
        ("logloss", 0.40, 0.42, "fail"),
        ("buy/logloss", 0.40, 0.42, "fail"),
        ("ndcg@10", 0.05, 0.04, "fail"),
        ("hr@10", 0.05, 0.06, "pass"),
        ("auc", 0.8, float("nan"), "fail"),
        ("auc", 0.8, None, "fail"),
        ("surprise", 0.8, 0.1, "skipped"),
    ],
)
def test_quality(artifact: Artifact, name: str, base: float, new: float | None, verdict: str) -> None:
    other = replace(artifact, metrics={name: base})
    mine = replace(artifact, metrics={} if new is None else {name: new})
    (found,) = judge_quality(mine, other, Limits())
    assert found.verdict.value == verdict
    assert name in found.reason


def test_quality_of_other_rows_is_said(artifact: Artifact) -> None:
    mine, other = (replace(artifact, metrics={"auc": 0.8}, data=data) for data in ("may.parquet", "june.parquet"))
    (found,) = judge_quality(mine, other, Limits())
    assert "may.parquet and june.parquet" in found.reason


@pytest.mark.parametrize(
    ("change", "gates"),
    [
        ({"units": 12}, {"parameters", "non-zeros", "operations", "model size", "artifact size"}),
        ({"idle": 3}, {"nodes"}),
        ({"zeros": 20}, set()),
        ({"rows": 80}, {"parameters", "non-zeros", "model size", "artifact size"}),
        ({"units": 4}, set()),
    ],
)
def test_each_change_of_a_model_fails_its_own_gates(change: dict[str, int], gates: set[str], tmp_path: Path) -> None:
    base = open_artifact(bundle(tmp_path / "base"))
    new = open_artifact(bundle(tmp_path / "new", Shape(**change)))
    found = {f.gate for f in judge_figures(new, base, Limits()) if f.verdict is Verdict.FAIL}
    assert found - {"artifact size", "model size"} == gates - {"artifact size", "model size"}
    assert gates - found <= {"artifact size"}


def test_fewer_zeros_are_found_where_the_parameters_are_as_many(tmp_path: Path) -> None:
    sparse, full = (
        open_artifact(plain(tmp_path / f"{zeros}.onnx", Shape(units=64, zeros=zeros))) for zeros in (400, 0)
    )
    found = {f.gate for f in judge_figures(full, sparse, Limits()) if f.verdict is Verdict.FAIL}
    assert found == {"non-zeros"}


@pytest.mark.parametrize(
    ("load", "peak", "failed"),
    [
        (50, 100, set()),
        (60, 105, set()),
        (64, 100, {"load time"}),
        (50, 120, {"peak memory"}),
        (80, 150, {"load time", "peak memory"}),
    ],
)
def test_costs(load: float, peak: float, failed: set[str]) -> None:
    def runs(load: float, peak: float) -> tuple[Footprint, ...]:
        """Busy moments add to some of the processes."""
        return tuple(Footprint(load + more, 1.0, 0.0, (peak + more) * 2**20) for more in (40, 0, 300))

    report = FootprintReport({"NEW": runs(load, peak), "BASE": runs(50, 100)}, 256)
    found = judge_costs(report, "NEW", "BASE", Limits())
    assert {f.gate for f in found if f.verdict is Verdict.FAIL} == failed


def test_small_differences_of_small_models_are_no_regression() -> None:
    report = FootprintReport({"NEW": (Footprint(6, 1, 0, 3e6),), "BASE": (Footprint(3, 1, 0, 1e6),)}, 1)
    assert {f.verdict for f in judge_costs(report, "NEW", "BASE", Limits())} == {Verdict.PASS}


def test_every_gate_can_be_turned_off(tmp_path: Path) -> None:
    new, base = (
        open_artifact(bundle(tmp_path / n, s)) for n, s in (("new", Shape(units=64, idle=9)), ("base", Shape()))
    )
    limits = Limits(given=dict.fromkeys(GATES))
    report = FootprintReport({"NEW": (Footprint(900, 1, 0, 9e9),), "BASE": (Footprint(3, 1, 0, 1e6),)}, 1)
    found = [*judge_figures(new, base, limits), *judge_costs(report, "NEW", "BASE", limits)]
    assert {f.verdict for f in found + judge_quality(new, base, limits)} == {Verdict.SKIPPED}
    assert len(found) == len(GATES) - 3  # all but signature, quality, latency


@pytest.mark.parametrize(
    ("verdicts", "together"),
    [
        ("pass skipped", "pass"),
        ("pass undecided", "undecided"),
        ("undecided fail pass", "fail"),
        ("skipped", "pass"),
    ],
)
def test_the_worst_counts(verdicts: str, together: str) -> None:
    assert overall(Finding("x", Verdict(v), "") for v in verdicts.split()).value == together


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return open_artifact(bundle(tmp_path / "artifact"))
