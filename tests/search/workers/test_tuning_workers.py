"""Trials in processes are those of one process; a process that dies, or an error in one, is one sentence."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from recprune_export.api import JobInputs, compress, sweep, sweep_shard
from recprune_export.errors import UsageError
from recprune_export.search import OperatingPoint, Trial, Trials, resolve_budgets
from recprune_export.search._sweep import tune_points
from recprune_export.search.workers import TuningWorkers
from recprune_export.settings import Settings
from recprune_export.shard import Shard
from tests.search.models import Product, make_columns

SETTINGS = Settings(epochs=1, latency_batch_sizes=(8,), learning_rate=1e-3, quick=True)
POINTS = (OperatingPoint("sparsity", 0.5), OperatingPoint("bytes", 0.6), OperatingPoint("bytes", 0.0002))


@pytest.fixture(scope="module")
def inputs() -> JobInputs:
    module = Product(60, 40, 16)
    return JobInputs(
        module.eval(), (torch.arange(4), torch.arange(4)), make_columns(module, 60, 40, 2000), "click", SETTINGS, {}
    )


@pytest.fixture(scope="module")
def workers(inputs: JobInputs) -> Iterator[TuningWorkers]:
    """Two processes for all tests of this file, since each takes seconds to start."""
    with TuningWorkers(inputs, SETTINGS, 2) as workers:
        yield workers


def make_trials(inputs: JobInputs, folder: Path, **options: Any) -> Trials:
    program, task = inputs()
    return Trials(program, SETTINGS, task, folder, **options)


def forget_times(trial: Trial) -> Any:
    artifact = trial.artifact
    assert artifact is not None
    return trial.point, trial.seed, trial.change, artifact.parameters, artifact.nonzero, artifact.bytes


@pytest.mark.slow
def test_tuned_models_are_the_same_bytes_as_in_one_process(
    inputs: JobInputs, workers: TuningWorkers, tmp_path: Path
) -> None:
    folders = [tmp_path / "alone", tmp_path / "together"]
    lines: list[str] = []
    tune_points(make_trials(inputs, folders[0], artifacts=True), POINTS)
    tune_points(make_trials(inputs, folders[1], artifacts=True), POINTS, workers, lines.append)
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in folders]
    assert names[0] == names[1]
    assert len([name for name in names[0] if name.endswith("model.onnx")]) == 2
    for name in names[0]:
        if (folders[0] / name).is_file():
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name
    assert len(lines) == 3
    assert any("no plan" in line for line in lines)


@pytest.mark.slow
def test_a_sweep_by_shards_and_processes_is_that_of_one_process(inputs: JobInputs, tmp_path: Path) -> None:
    job: dict[str, Any] = {
        "data": inputs.data, "labels": "click", "settings": SETTINGS, "sparsities": (0.4, 0.7), "byte_fractions": (0.6,),
    }  # fmt: skip
    alone = sweep(inputs.model, inputs.example_inputs, target=tmp_path / "alone", **job)
    job["target"] = tmp_path / "shared"
    first = sweep_shard(inputs.model, inputs.example_inputs, shard=Shard(1, 2), **job)
    assert [point.label for point in first.points] == ["sparsity 0.4", "60 % of the bytes"]
    assert [point.label for point in first.missing] == ["sparsity 0.7", "dense int8"]
    assert first.next_step == "Not yet tuned by the other shards: sparsity 0.7, dense int8."
    dead = tmp_path / "shared" / "trials" / ".sparsity-0.7.tuned.0.partial"
    dead.mkdir()
    second = sweep_shard(inputs.model, inputs.example_inputs, shard=Shard(2, 2), **job)
    assert not second.missing
    assert "without --shard" in second.next_step
    assert not (tmp_path / "shared" / "sweep.json").exists()
    tuned = sorted((tmp_path / "shared" / "trials").glob("*.tuned"))
    assert len(tuned) == 4
    together = sweep(inputs.model, inputs.example_inputs, **job)
    assert [forget_times(trial) for trial in together.trials] == [forget_times(trial) for trial in alone.trials]
    left = sorted(path.name for path in (tmp_path / "shared" / "trials").iterdir())
    assert len(left) == 4
    assert all(name.endswith(".json") for name in left)


@pytest.mark.slow
def test_max_drop_finds_the_same_point(inputs: JobInputs, workers: TuningWorkers, tmp_path: Path) -> None:
    program, task = inputs()
    settings = SETTINGS.with_options(max_drop=0.02, minimize="latency", epochs=1)
    alone_lines: list[str] = []
    lines: list[str] = []
    alone = resolve_budgets(program, settings, task, tmp_path / "alone", alone_lines.append)
    together = resolve_budgets(program, settings, task, tmp_path / "together", lines.append, workers)
    assert alone is not None
    assert together is not None
    assert (together.settings, together.reason) == (alone.settings, alone.reason)
    assert lines == alone_lines


@pytest.mark.slow
def test_a_killed_process_is_one_sentence_and_finished_trials_stay(inputs: JobInputs, tmp_path: Path) -> None:
    trials = make_trials(inputs, tmp_path)
    with TuningWorkers(inputs, SETTINGS, 2) as workers:

        def kill(line: str) -> None:
            for process in workers.processes:
                process.kill()

        points = [OperatingPoint("sparsity", value) for value in (0.3, 0.4, 0.5, 0.6)]
        with pytest.raises(UsageError, match=r"ended before its trial was finished, .* fewer --jobs"):
            tune_points(trials, points, workers, kill)
        assert 1 <= len(make_trials(inputs, tmp_path).completed) < 4
    assert not any(process.is_alive() for process in workers.processes)


@pytest.mark.slow
def test_processes_end_before_the_folders_into_which_they_write(inputs: JobInputs, tmp_path: Path) -> None:
    trials = make_trials(inputs, tmp_path, artifacts=True)
    with TuningWorkers(inputs, SETTINGS, 2) as workers:

        def stop(line: str) -> None:
            raise UsageError("The search fails.")

        points = [OperatingPoint("sparsity", value) for value in (0.3, 0.4, 0.5, 0.6)]
        with pytest.raises(UsageError, match="The search fails"):
            tune_points(trials, points, workers, stop)
        assert not any(process.is_alive() for process in workers.processes)
        assert not list(tmp_path.rglob(".*.partial"))


def test_a_job_that_differs_from_process_to_process_is_refused(inputs: JobInputs, tmp_path: Path) -> None:
    trials = Trials(*_open_other(inputs), tmp_path)
    with (
        TuningWorkers(inputs, SETTINGS, 2) as workers,
        pytest.raises(UsageError, match="a different model or different rows"),
    ):
        tune_points(trials, POINTS[:1], workers)


def _open_other(inputs: JobInputs) -> tuple[Any, Settings, Any]:
    program, task = inputs()
    changed = program.with_copied_parameters()
    with torch.no_grad():
        next(iter(changed.parameters().values())).add_(1.0)
    return changed, SETTINGS, task


def test_what_cannot_be_pickled_and_what_has_no_trials_is_refused(inputs: JobInputs, tmp_path: Path) -> None:
    class Local(Product):
        pass

    with pytest.raises(UsageError, match="give paths of files"):
        TuningWorkers(JobInputs(Local(4, 4, 4), None, None, (), SETTINGS, {}), SETTINGS, 2)
    with pytest.raises(UsageError, match="--max-drop"):
        compress(inputs.model, inputs.example_inputs, tmp_path / "b", jobs=2)
    with pytest.raises(UsageError, match="--jobs must be 1 or more"):
        inputs.start_workers(0)
    with pytest.raises(UsageError, match="--jobs must be 1 or more"):
        sweep(
            inputs.model,
            inputs.example_inputs,
            target=tmp_path / "s",
            data=inputs.data,
            labels="click",
            settings=SETTINGS,
            jobs=0,
        )
    assert not (tmp_path / "s").exists()


def _find_children(pid: int) -> set[int]:
    children = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            children.add(int(status.parent.name))
    return children


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        (signal.SIGINT, "Interrupted; no incomplete file was left"),
        pytest.param(signal.SIGKILL, "", marks=pytest.mark.slow),
    ],
)
def test_all_processes_end_with_the_first_one(
    ending: signal.Signals, said: str, checkpoint: Path, clicks_file: Path, tmp_path: Path
) -> None:
    words = ["sweep", str(checkpoint), "--data", str(clicks_file), "--epochs", "500", "--byte-fractions", "none"]
    command = [sys.executable, "-m", "recprune_export", *words, "--jobs", "2", "-o", str(tmp_path / "sweep")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 90
        trials = tmp_path / "sweep" / "trials"
        while not list(trials.glob(".*.partial")) or len(_find_children(process.pid)) < 3:  # and the resource tracker
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        children = _find_children(process.pid)
        if ending is signal.SIGINT:
            os.killpg(process.pid, ending)  # as a terminal does: all processes get it
        else:
            process.kill()
        _, errors = process.communicate(timeout=30)
        if said:
            assert process.returncode == 130
            assert errors.strip().splitlines()[-1].startswith(said)
            assert "Traceback" not in errors
            assert list(trials.iterdir()) == []
        while any(_is_alive(child) for child in children):
            assert time.monotonic() < deadline + 30
            time.sleep(0.1)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
