"""Rules without statistics, by table."""

from dataclasses import replace
from pathlib import Path

import pytest

from recprune_export.evidence import Verdict, combine_verdicts
from recprune_export.gate import Limits, compare_growth, open_artifact
from recprune_export.gate.cost_rules import compare_costs
from recprune_export.gate.limits import GATES
from recprune_export.gate.quality_rules import compare_quality
from recprune_export.gate.regression_rules import compare_counts
from tests.gate.models import Shape, bundle, plain
from tests.gate.synthetic import make_footprints


@pytest.mark.parametrize(
    ("new", "base", "tolerance", "verdict"),
    [
        (100, 100, 0.05, "pass"),
        (105, 100, 0.05, "pass"),
        (106, 100, 0.05, "fail"),
        (50, 100, 0.0, "pass"),
        (101, 100, 0.0, "fail"),
        (1, 0, 0.05, "fail"),
        (0, 0, 0.05, "pass"),
    ],
)
def test_growth(new: float, base: float, tolerance: float, verdict: str) -> None:
    found = compare_growth("parameters", "", new, base, Limits(tolerance))
    assert (found.verdict.value, found.new, found.base) == (verdict, new, base)


@pytest.mark.parametrize(
    ("change", "gates"),
    [
        ({"units": 12}, {"parameters", "non-zeros", "operations", "model size", "artifact size"}),
        ({"idle": 3}, set()),
        ({"zeros": 20}, set()),
        ({"rows": 80}, {"parameters", "non-zeros", "model size", "artifact size"}),
        ({"units": 4}, set()),
    ],
)
def test_each_change_of_a_model_fails_its_own_gates(change: dict[str, int], gates: set[str], tmp_path: Path) -> None:
    base = open_artifact(bundle(tmp_path / "base"))
    new = open_artifact(bundle(tmp_path / "new", Shape(**change)))
    found = {f.gate for f in compare_counts(new, base, Limits()) if f.verdict is Verdict.FAILS}
    assert found - {"artifact size", "model size"} == gates - {"artifact size", "model size"}
    assert gates - found <= {"artifact size"}


@pytest.mark.parametrize(
    ("limits", "verdict"),
    [
        (Limits(), Verdict.SKIPPED),
        (Limits(overrides={"nodes": 0.05}), Verdict.FAILS),
        (Limits(overrides={"nodes": 9.0}), Verdict.HOLDS),
        (Limits(overrides={"nodes": None}), Verdict.SKIPPED),
    ],
)
def test_nodes_are_reported_and_judged_only_by_a_limit_of_their_own(
    limits: Limits, verdict: Verdict, tmp_path: Path
) -> None:
    base, new = (open_artifact(plain(tmp_path / f"{idle}.onnx", Shape(idle=idle))) for idle in (0, 3))
    (found,) = [finding for finding in compare_counts(new, base, limits) if finding.gate == "nodes"]
    assert found.verdict is verdict
    assert "nodes went from 7 to 10" in found.reason or limits.is_off("nodes")
    assert (found.base, found.new) == ((None, None) if limits.is_off("nodes") else (7, 10))


def test_fewer_zeros_are_found_where_the_parameters_are_as_many(tmp_path: Path) -> None:
    sparse, full = (
        open_artifact(plain(tmp_path / f"{zeros}.onnx", Shape(units=64, zeros=zeros))) for zeros in (400, 0)
    )
    found = {f.gate for f in compare_counts(full, sparse, Limits()) if f.verdict is Verdict.FAILS}
    assert found == {"non-zeros"}


def test_every_gate_can_be_turned_off(tmp_path: Path) -> None:
    new, base = (
        open_artifact(bundle(tmp_path / n, s)) for n, s in (("new", Shape(units=64, idle=9)), ("base", Shape()))
    )
    limits = Limits(overrides=dict.fromkeys(GATES))
    costs = compare_costs(make_footprints(900, 9000, 0), "NEW", "BASE", limits)
    found = [*compare_counts(new, base, limits), *costs]
    assert {f.verdict for f in found + compare_quality(new, base, limits)} == {Verdict.SKIPPED}
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
    assert combine_verdicts(Verdict(v) for v in verdicts.split()).value == together


def test_operations_of_which_only_a_lower_bound_is_known_are_not_judged(tmp_path: Path) -> None:
    base = open_artifact(bundle(tmp_path / "base"))
    new = open_artifact(bundle(tmp_path / "new", Shape(units=12)))
    partial = replace(new, counts=replace(new.counts, operations_complete=False))
    for pair in ((partial, base), (base, partial)):
        (found,) = (f for f in compare_counts(*pair, Limits()) if f.gate == "operations")
        assert found.verdict is Verdict.SKIPPED
        assert "lower bound" in found.reason
