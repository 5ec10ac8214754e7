"""All budgets become one point; what excludes itself is said, and a claim of bytes holds on rows that no search saw."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recprune_export.byte_limit import ByteLimit
from recprune_export.errors import TooFewBytes, UsageError, ValidationFailed
from recprune_export.evidence import Estimate
from recprune_export.finetuning import Task, run_program
from recprune_export.finetuning.rounded_weights import with_rounded_weights
from recprune_export.pipeline import prune
from recprune_export.program import Program
from recprune_export.search import check_budgets, resolve_budgets
from recprune_export.search.speed import speed_search
from recprune_export.settings import Settings
from tests.search.models import make_job

SETTINGS = Settings(epochs=1, latency_batch_sizes=(8,), learning_rate=1e-3)
ROWS, USERS, ITEMS = 8000, 1500, 800


@pytest.fixture(scope="module")
def job() -> tuple[Program, Task]:
    return make_job(USERS, ITEMS, 16, ROWS, SETTINGS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_bytes": "10%", "max_drop": 0.1, "minimize": "latency"}, "--minimize latency"),
        ({"max_drop": 0.1, "quantize": "int8"}, "leave out --quantize"),
        ({"max_drop": 0.1, "embedding_sparsity": 0.5}, "leave out --embedding-sparsity"),
        ({"max_drop": 0.1, "score": "taylor"}, "leave out --score"),
        ({"max_drop": 0.1, "pruning_stages": 2}, "leave out --pruning-stages"),
    ],
)
def test_options_that_exclude_each_other_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_budgets(Settings(**options))


@pytest.mark.parametrize(
    "options",
    [
        {"max_drop": 0.1, "quantize": "int8", "minimize": "latency"},
        {"max_drop": 0.1, "quantize": "int8", "target_speedup": 2.0},
        {"max_drop": 0.1, "max_bytes": "10%", "target_latency": "1ms@8"},
        {"quantize": "int8", "target_latency": "1ms@8"},
    ],
)
def test_budgets_may_be_combined(options: dict[str, Any]) -> None:
    check_budgets(Settings(**options))


def test_bytes_alone_need_no_search(job: tuple[Program, Task], tmp_path: Path) -> None:
    assert resolve_budgets(*job[:1], SETTINGS.with_options(max_bytes="10%"), job[1], tmp_path / "search") is None


@pytest.mark.slow
def test_the_least_bytes_hold_on_rows_that_the_search_never_saw(job: tuple[Program, Task], tmp_path: Path) -> None:
    program, task = job
    lines: list[str] = []
    asked = SETTINGS.with_options(max_drop=0.005, max_bytes="30%")
    resolved = resolve_budgets(program, asked, task, tmp_path / "search", lines.append)
    assert resolved is not None
    settings = resolved.settings
    assert settings.pruning.byte_limit is not None
    assert settings.pruning.byte_limit.bytes is not None
    assert (
        settings.pruning.byte_limit.bytes < 60_000
    )  # dimensions and bits that the answers do not need are a lot of bytes
    assert resolved.record.settings == asked
    assert "the smallest of" in resolved.reason
    assert all("% of the bytes" in line for line in lines[-3:])
    pruned = prune(program, settings.pruning, settings.finetuning, task)
    assert pruned.plan.storage is not None
    assert pruned.plan.storage.point.bytes <= settings.pruning.byte_limit.bytes
    served = with_rounded_weights(pruned.program, pruned.plan.storage.bits)
    dense, after = (task.test(lambda r, p=p: run_program(p, r))["auc"] for p in (program, served))  # type: ignore[misc]
    assert dense - after <= 0.005


@pytest.mark.slow
def test_bytes_and_drop_that_exclude_each_other_are_said(job: tuple[Program, Task], tmp_path: Path) -> None:
    program, task = job
    settings = SETTINGS.with_options(epochs=0, max_drop=1e-6, max_bytes="8%", undecided="fail")
    with pytest.raises(ValidationFailed, match=r"contradict each other|At no point"):
        resolve_budgets(program, settings, task, tmp_path / "search")


def test_a_limit_that_no_plan_keeps_to_is_an_error(job: tuple[Program, Task], tmp_path: Path) -> None:
    program, task = job
    for text, words in (("500B", "too small"), ("1B", "--max-bytes 1B is too small")):
        settings = SETTINGS.with_options(epochs=0, max_drop=0.1, max_bytes=text)
        with pytest.raises(TooFewBytes, match=words):
            resolve_budgets(program, settings, task, tmp_path / "search")


def test_a_speed_within_bytes_takes_plans_of_less_predicted_time(
    job: tuple[Program, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, task = job
    speeds, microseconds = iter([0.9, 0.95, 1.2]), iter([100.0, 50.0, 40.0])
    monkeypatch.setattr(speed_search, "_export_and_measure", lambda *given: _certain(next(speeds)))
    monkeypatch.setattr(
        speed_search, "_prune_structure", lambda *given: SimpleNamespace(key=given[-1], microseconds=next(microseconds))
    )
    settings = SETTINGS.with_options(epochs=0, max_bytes="40%", target_latency="1ms@8")
    resolved = resolve_budgets(program, settings, task, tmp_path / "search")
    assert resolved is not None
    assert "40 % of the bytes, predicted time of at most 40 µs" in resolved.reason
    assert resolved.settings.pruning.max_microseconds == pytest.approx(40.0)
    assert resolved.record.settings.pruning.max_microseconds is None
    limits = [s.pruning.byte_limit for s in (resolved.settings, resolved.record.settings)]
    assert limits[0] is not None
    assert limits[0].bytes is not None
    assert limits[1] == ByteLimit(fraction=0.4)  # by which `refresh` searches again


def test_a_drop_is_judged_at_the_sparsity_that_is_fast_enough(
    job: tuple[Program, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, task = job
    monkeypatch.setattr(
        speed_search, "bisect_monotone", lambda *given: iter([(speed_search.Bracket(0.5, 0.6), {0.6: _certain(2.0)})])
    )
    settings = SETTINGS.with_options(epochs=0, target_speedup=1.5, max_drop=0.9)
    resolved = resolve_budgets(program, settings, task, tmp_path / "search")
    assert resolved is not None
    assert resolved.settings.pruning.sparsity == resolved.record.settings.pruning.sparsity == 0.6
    assert [(t["point"], t["seed"]) for t in resolved.record.trials] == [
        ({"kind": "sparsity", "value": 0.6}, seed) for seed in (0, 1)
    ]
    assert "At this sparsity" in resolved.reason
    with pytest.raises(ValidationFailed, match="contradict each other"):
        resolve_budgets(
            program,
            settings.with_options(score="random", refit=False, max_drop=1e-9, undecided="fail"),
            task,
            tmp_path / "other",
        )


def _certain(value: float) -> Estimate:
    return Estimate(value, value * 0.999, value * 1.001)
