"""Searches on a small learnable model: what they find holds, and they go on where they were."""

import gc
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from recprune_export import api
from recprune_export.errors import Undecided, UsageError, ValidationFailed
from recprune_export.evidence import Estimate, Verdict
from recprune_export.finetuning import RegularizedProgram, Task
from recprune_export.onnx.export import OnnxFile
from recprune_export.pipeline import InputSources, SearchPrefix, StageCheckpoints, plan_fields
from recprune_export.pipeline import _prune as stages
from recprune_export.pipeline.export_models import make_serving_config
from recprune_export.pipeline.planning import make_byte_candidates
from recprune_export.program import LoadedModel, ModelKind, Program
from recprune_export.pruning import FieldPlan, Plan
from recprune_export.pruning.plan import NO_FIELDS
from recprune_export.search import OperatingPoint, Trial, Trials, resolve_budgets, sweep
from recprune_export.search import trials as trials_module
from recprune_export.search import tuner as tuner_module
from recprune_export.search._sweep import list_points
from recprune_export.search.max_drop import SEEDS, DropClaim, find_point_within_drop
from recprune_export.search.speed import speed_search, speed_target
from recprune_export.search.speed.speed_target import SpeedupTarget
from recprune_export.settings import FineTuningSettings, PruningSettings, Settings
from tests.search.models import make_job

SETTINGS = Settings(epochs=1, latency_batch_sizes=(1, 8), learning_rate=1e-3)
ROWS = 6000


def at(sparsity: float) -> OperatingPoint:
    return OperatingPoint("sparsity", sparsity)


@pytest.fixture(scope="module")
def job() -> tuple[Program, Task]:
    return make_job(60, 40, 32, ROWS, SETTINGS)


def test_a_trial_is_made_once_and_survives_its_file(job: tuple[Program, Task], tmp_path: Path) -> None:
    program, task = job
    folder = tmp_path / "trials"
    one = Trials(program, SETTINGS, task, folder).run(at(0.5))
    again = Trials(program, SETTINGS, task, folder)
    assert again.completed == (one,)
    (file,) = folder.iterdir()
    file.unlink()
    assert again.run(at(0.5)) is again.completed[0]
    assert not file.exists()


def test_trials_of_other_settings_or_a_broken_file_are_begun_anew(job: tuple[Program, Task], tmp_path: Path) -> None:
    program, task = job
    folder = tmp_path / "trials"
    Trials(program, SETTINGS, task, folder).run(at(0.5))
    assert Trials(program, SETTINGS.with_options(score="random"), task, folder).completed == ()
    assert len(Trials(program, SETTINGS.with_options(threads=2), task, folder).completed) == 1
    (file,) = folder.iterdir()
    file.write_text("{")
    assert Trials(program, SETTINGS, task, folder).completed == ()


def test_what_all_trials_share_is_done_once_for_each_seed(
    job: tuple[Program, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, task = job
    runs = {"regularize": 0, "plan_fields": 0}

    def counted(name: str) -> None:
        original = getattr(stages, name)

        def run(*given: object, **named: object) -> object:
            runs[name] += 1
            return original(*given, **named)

        monkeypatch.setattr(stages, name, run)

    for name in runs:
        counted(name)
    monkeypatch.setattr("recprune_export.pipeline.planning.plan_fields", stages.plan_fields)  # what a plan would call
    settings = SETTINGS.with_options(regularize=1.0, prune_fields=1)
    trials = Trials(program, settings, task)
    first, second = trials.run(at(0.3)), trials.run(at(0.6))
    assert runs == {"regularize": 1, "plan_fields": 1}
    assert Trials(program, settings, task).run(at(0.6)) == second != first  # as without the other
    assert runs == {"regularize": 2, "plan_fields": 2}
    trials.run(at(0.6), seed=1)
    assert runs == {"regularize": 3, "plan_fields": 3}


def test_candidates_of_plans_within_bytes_are_made_once_for_each_seed(
    job: tuple[Program, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, task = job
    prefixes: list[SearchPrefix] = []

    def prune(*arguments: Any, search_prefix: SearchPrefix, **options: Any) -> Any:
        prefixes.append(search_prefix)
        return SimpleNamespace(program=program, plan=Plan("random", ()))

    monkeypatch.setattr(tuner_module, "prune", prune)
    trials = Trials(program, SETTINGS, task)
    for point in (at(0.5), OperatingPoint("bytes", 0.9), OperatingPoint("bytes", 0.8), at(0.6)):
        trials.run(point)
    assert prefixes[0].candidates is None  # a sparsity needs none
    serving = make_serving_config(SETTINGS)
    again = make_byte_candidates(program, SETTINGS.pruning, task, NO_FIELDS, serving=serving)
    once, *_ = prefixes[1].candidates or ()
    assert all(prefix.candidates is prefixes[1].candidates for prefix in prefixes[2:])
    assert once.choices.allocate(4_000) == again[0].choices.allocate(4_000) is not None


def test_the_job_after_a_search_begins_where_its_trials_did(
    job: tuple[Program, Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, task = job
    settings = SETTINGS.with_options(
        max_drop=0.9, minimize="latency", regularize=1.0, prune_fields=1
    )  # even the largest sparsity holds
    given: dict[str, Any] = {}
    trained: list[int] = []
    honest = stages.regularize

    def once_for_each_seed(*arguments: Any) -> RegularizedProgram:
        trained.append(arguments[-1].seed)
        return honest(*arguments)

    monkeypatch.setattr(stages, "regularize", once_for_each_seed)
    monkeypatch.setattr(api, "compress_program", lambda program, target, *wishes, **named: given.update(named))
    monkeypatch.setattr(api, "resolve_budgets", lambda *asked: given.setdefault("resolved", resolve_budgets(*asked)))
    loaded = LoadedModel(program, None, ModelKind.PROGRAM)
    api.compress_loaded(loaded, task, tmp_path / "ctr", settings, InputSources())
    work = StageCheckpoints(tmp_path / "work", "key")
    resolved = given["resolved"].settings
    arguments = (program, resolved.pruning, resolved.finetuning, task)
    handed = stages.prune(*arguments, seed=resolved.seed, checkpoints=work, search_prefix=given["search_prefix"])
    assert trained == [0, 1]
    assert "regularized" in work.names  # a job that is killed now finds it again
    alone = stages.prune(*arguments, seed=resolved.seed)
    assert trained == [0, 1, 0]
    assert handed.plan == alone.plan
    for name, tensor in alone.program.module.state_dict().items():
        assert torch.equal(handed.program.module.state_dict()[name], tensor), name


def test_a_speed_is_searched_with_the_same_fields(job: tuple[Program, Task], monkeypatch: pytest.MonkeyPatch) -> None:
    program, task = job
    chosen = []

    def choose(*given: Any) -> FieldPlan:
        chosen.append(plan_fields(*given))
        return chosen[-1]

    monkeypatch.setattr(speed_search, "plan_fields", choose)
    monkeypatch.setattr("recprune_export.pipeline.planning.plan_fields", choose)
    with pytest.raises(ValidationFailed, match="times as fast"):
        speed_search.find_point_for_speed(program, Settings(prune_fields=1), SpeedupTarget(1e6, (1, 8)), task)
    (fields,) = chosen
    assert len(fields.removed) == 1


def test_the_dense_model_is_exported_once_for_a_search_of_the_speed(
    job: tuple[Program, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, task = job
    exported: list[object] = []

    def prune_structure(dense: Program, settings: Settings, *given: Any) -> Any:
        return SimpleNamespace(program=None, bits=None, microseconds=0.0, key=settings.pruning.sparsity)

    def export(model: object, path: Path, **options: Any) -> Any:
        exported.append(model)
        return OnnxFile(path, 18, None, program.signature)

    monkeypatch.setattr(speed_search, "_prune_structure", prune_structure)
    monkeypatch.setattr(speed_search, "export_onnx", export)
    monkeypatch.setattr(speed_search, "make_latency_requests", lambda *given: {})
    monkeypatch.setattr(speed_target, "measure_speedup", lambda *given: Estimate(2.0, 1.9, 2.1))
    with pytest.raises(ValidationFailed, match="times as fast"):
        speed_search.find_point_for_speed(program, Settings(0.6), SpeedupTarget(1e6, (1,)), task)
    assert [model is program for model in exported] == [True, False, False]


def test_what_is_found_holds_on_rows_that_the_search_never_saw(job: tuple[Program, Task]) -> None:
    program, task = job
    trials, told = Trials(program, SETTINGS, task), []
    found = find_point_within_drop(trials, DropClaim(0.02), "sparsity", first=0.4, report=told.append)
    assert found.point is not None
    assert found.point.value >= 0.5  # three quarters of the dimensions hold next to nothing
    assert len(found.confirmed) == SEEDS
    assert all(trial.judge(0.02) is Verdict.HOLDS for trial in found.confirmed)
    assert len(told) >= len(found.trials)
    from recprune_export.finetuning import run_program
    from recprune_export.pipeline import prune

    pruned = prune(program, PruningSettings(found.point.value), SETTINGS.finetuning, task).program
    dense, after = (task.test(lambda r, p=p: run_program(p, r))["auc"] for p in (program, pruned))  # type: ignore[misc]
    assert dense - after <= 0.02


def test_few_rows_cannot_tell(job: tuple[Program, Task], tmp_path: Path) -> None:
    program, task = job
    settings = SETTINGS.with_options(max_drop=1e-9, minimize="latency", score="random", refit=False)
    lines: list[str] = []
    with pytest.raises(
        Undecided, match=r"inconclusive .* these \d+ validation rows give an interval of \+-[\d.e-]+ at best"
    ):
        resolve_budgets(program, settings, task, tmp_path / "search", lines.append)
    assert "rows give an interval of +-" in lines[0]
    assert "give at least" in lines[0]
    with pytest.raises(ValidationFailed, match="At no point"):  # the trials are those in the file
        resolve_budgets(program, settings.with_options(undecided="fail"), task, tmp_path / "search")
    resolved = resolve_budgets(program, settings.with_options(undecided="pass"), task, tmp_path / "search")
    assert resolved is not None
    assert resolved.settings.pruning.sparsity > 0.0


def test_without_labels_there_is_nothing_to_compare(job: tuple[Program, Task]) -> None:
    from recprune_export.pipeline import make_sampled_task

    program, _ = job
    task = make_sampled_task(program, FineTuningSettings(epochs=0))
    with pytest.raises(UsageError, match="give --data"):
        Trials(program, SETTINGS.with_options(epochs=0), task).run(at(0.5))


def test_a_speed_out_of_reach_is_said(job: tuple[Program, Task], tmp_path: Path) -> None:
    program, task = job
    with pytest.raises(ValidationFailed, match="times as fast"):
        resolve_budgets(program, SETTINGS.with_options(target_speedup=1e6), task, tmp_path / "search")


def test_a_sweep_is_written(job: tuple[Program, Task], tmp_path: Path) -> None:
    program, task = job
    seen: list[Trial] = []
    found = sweep(Trials(program, SETTINGS, task, artifacts=True), list_points((0.7, 0.4), ()), seen.append)
    assert [t.point.label for t in found.trials] == ["sparsity 0.4", "sparsity 0.7", "dense int8"]
    assert list(found.trials) == seen
    assert all(t.artifact is not None and set(t.artifact.speedup) == {1, 8} for t in found.trials)
    found.save(tmp_path / "sweep.json")
    assert [Trial.from_dict(t) for t in json.loads((tmp_path / "sweep.json").read_text())["trials"]] == list(
        found.trials
    )


def test_a_quick_sweep_times_one_batch_size_and_its_trials_are_its_own(
    job: tuple[Program, Task], tmp_path: Path
) -> None:
    program, task = job
    file = tmp_path / "trials"
    quick = Trials(program, SETTINGS.with_options(epochs=0, quick=True), task, file, artifacts=True).run(at(0.5))
    assert quick.artifact is not None
    assert set(quick.artifact.speedup) == set(quick.artifact.milliseconds) == {8}
    assert not Trials(program, SETTINGS.with_options(epochs=0), task, file, artifacts=True).completed
    assert Trials(program, SETTINGS.with_options(epochs=0, quick=True), task, file, artifacts=True).completed == (
        quick,
    )


def test_the_dense_model_of_a_sweep_is_exported_once_and_removed(
    job: tuple[Program, Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, task = job
    files: list[Path] = []

    def measure(dense: Program, dense_file: Path, *given: Any, **options: Any) -> tuple[None, None]:
        assert dense_file.exists()
        files.append(dense_file)
        return None, None

    monkeypatch.setattr(trials_module, "measure_artifact", measure)
    monkeypatch.setattr(
        tuner_module, "prune", lambda *given, **options: SimpleNamespace(program=program, plan=Plan("random", ()))
    )
    trials = Trials(program, SETTINGS, task, artifacts=True)
    for sparsity in (0.3, 0.5):
        trials.run(at(sparsity))
    assert len(files) == 2
    assert len(set(files)) == 1
    del trials
    gc.collect()
    assert not files[0].parent.exists()
