"""A run that is killed after a stage goes on from there, to the same bundle; another run does not take its work."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from torch import nn

from recprune_export.api import make_task
from recprune_export.bundle import verify
from recprune_export.errors import ValidationFailed
from recprune_export.finetuning import task
from recprune_export.onnx import ServingConfig
from recprune_export.pipeline import StageCheckpoints, export_pruned, fingerprint, make_sampled_task, prune
from recprune_export.pipeline import _prune as stages
from recprune_export.pipeline._prune import PrunedModel
from recprune_export.pipeline.stage_checkpoints import NO_CHECKPOINTS, get_checkpoint_folder, remove_when_done
from recprune_export.program import LoadedModel, ModelKind, Program
from recprune_export.program.capture import capture
from recprune_export.pruning import Plan
from recprune_export.settings import Settings
from tests.full_disk import file_size_limit
from tests.pipeline.test_prune import scorer

STEPS = 5
SETTINGS = Settings(sparsity=0.6, epochs=1, latency_batch_sizes=(1,), batch_size=64, pruning_stages=2)
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def short_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "SAMPLED_STEPS", STEPS)


def program() -> Program:
    return scorer()


def pruned(
    work: StageCheckpoints = NO_CHECKPOINTS, settings: Settings = SETTINGS, plan: Plan | None = None
) -> PrunedModel:
    dense = program()
    task = make_sampled_task(dense, settings.finetuning)
    return prune(dense, settings.pruning, settings.finetuning, task, seed=settings.seed, plan=plan, checkpoints=work)


def key(dense: Program, settings: Settings = SETTINGS) -> str:
    task = make_sampled_task(dense, settings.finetuning)
    return fingerprint(dense, settings.pruning, settings.finetuning, task, settings.seed)


def exported(made: PrunedModel, path: Path) -> bytes:
    return export_pruned(made, ServingConfig(SETTINGS.latency.latency_batch_sizes), path).path.read_bytes()


@pytest.fixture(scope="module")
def whole() -> PrunedModel:
    """What comes of a run that nothing interrupts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "SAMPLED_STEPS", STEPS)
        return pruned()


@pytest.mark.parametrize("finished", [1, 2])
def test_the_same_model_comes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: PrunedModel, finished: int
) -> None:
    work, honest, calls = StageCheckpoints(tmp_path / "work", "key"), stages._tune, []

    def mortal(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > finished:
            raise KeyboardInterrupt
        return honest(*arguments)

    monkeypatch.setattr(stages, "_tune", mortal)
    with contextlib.suppress(KeyboardInterrupt):
        pruned(work)
    assert work.names == tuple(f"stage-{n}" for n in range(1, finished + 1))
    calls.clear()
    monkeypatch.setattr(stages, "_tune", lambda *a: calls.append(a) or honest(*a))  # type: ignore[func-returns-value]
    torch.manual_seed(99)
    again = pruned(work)
    assert len(calls) == 2 - finished
    assert again.plan == whole.plan
    assert [s.fitted for s in again.stages] == [s.fitted for s in whole.stages]
    assert [s.soundness for s in again.stages] == [s.soundness for s in whole.stages]
    assert again.program.module.code == whole.program.module.code
    for name, tensor in whole.program.module.state_dict().items():
        assert torch.equal(again.program.module.state_dict()[name], tensor), name
    assert exported(again, tmp_path / "again.onnx") == exported(whole, tmp_path / "whole.onnx")


def test_regularised_training_is_kept_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SETTINGS.with_options(regularize=1.0, pruning_stages=1)
    work, dense = StageCheckpoints(tmp_path / "work", "key"), program()
    first = stages.regularize_channels(dense, settings.finetuning, make_sampled_task(dense, settings.finetuning), work)
    assert work.names == ("regularized",)
    monkeypatch.setattr(stages, "regularize", lambda *a: pytest.fail("it was trained again"))
    again = stages.regularize_channels(dense, settings.finetuning, make_sampled_task(dense, settings.finetuning), work)
    assert first is not None
    assert again is not None
    assert again.to_dict() == first.to_dict()
    for name, tensor in first.program.module.state_dict().items():
        assert torch.equal(again.program.module.state_dict()[name], tensor), name


def test_the_key_is_that_of_weights_and_settings_but_not_of_serving() -> None:
    dense = program()
    known = key(dense)
    assert known == key(program())
    assert known == key(dense, SETTINGS.with_options(latency_batch_sizes=(2,), keep_dense=False, threads=2))
    assert known != key(dense, SETTINGS.with_options(sparsity=0.5))
    assert known != key(dense, SETTINGS.with_options(seed=1))
    with torch.no_grad():
        next(iter(dense.parameters().values())).view(-1)[0].add_(1e-3)
    assert known != key(dense)


def test_the_key_is_that_of_all_rows(clicks_file: Path) -> None:
    columns = {"ids": np.arange(200) % 50, "clicked": np.arange(200) % 2}
    dense = capture(nn.Sequential(nn.Embedding(50, 4), nn.Linear(4, 1), nn.Flatten(0)), (torch.arange(4),))
    name = dense.signature.inputs[0].name

    def of(**changes: np.ndarray) -> str:
        rows = {name: columns["ids"], "clicked": columns["clicked"], **changes}
        loaded = LoadedModel(dense, None, ModelKind.MODULE)
        return fingerprint(dense, SETTINGS.pruning, SETTINGS.finetuning, make_task(loaded, rows, "clicked", SETTINGS))

    known = of()
    assert known == of()
    for row in range(0, 200, 17):
        clicked = columns["clicked"].copy()
        clicked[row] ^= 1
        assert known != of(clicked=clicked), row


def test_the_key_is_that_of_what_is_computed_with_the_weights() -> None:
    layers = nn.Linear(4, 3), nn.Linear(3, 1)
    example = (torch.zeros(2, 4),)
    one, other = (capture(nn.Sequential(layers[0], f, layers[1]).eval(), example) for f in (nn.ReLU(), nn.Tanh()))
    assert all(torch.equal(p, other.parameters()[name]) for name, p in one.parameters().items())
    assert key(one) != key(other)
    (requests,) = one.signature.inputs
    clipped = one.with_signature(replace(one.signature, inputs=(replace(requests, observed=(-1.0, 1.0)),)))
    assert key(one) != key(clipped)


def test_the_key_draws_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task.SampledRequests, "training_batches", lambda *a: pytest.fail("a batch was drawn"))
    monkeypatch.setattr(task.SampledRequests, "requests", lambda *a: pytest.fail("requests were drawn"))
    assert key(program())


def test_the_key_is_that_of_values_and_not_of_their_place_in_memory() -> None:
    dense = program()
    transposed = dense.with_copied_parameters()
    for parameter in transposed.parameters().values():
        parameter.data = parameter.detach().T.contiguous().T if parameter.ndim == 2 else parameter.detach()
    assert not all(p.is_contiguous() for p in transposed.parameters().values())
    assert key(dense) == key(transposed)


@pytest.mark.parametrize("resume", [True, False])
def test_work_of_another_run_is_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str], resume: bool) -> None:
    folder = tmp_path / "work"
    StageCheckpoints(folder, "one").save("part", "a part", {}, nn.Linear(1, 1))
    assert StageCheckpoints.open(folder, "one", resume=True).names == ("part",)
    work = StageCheckpoints.open(folder, "other" if resume else "one", resume=resume)
    assert work.names == ()
    assert work.load("part") is None
    assert ("starting from the beginning" in capsys.readouterr().err) == resume


@pytest.mark.parametrize("name", ["part.pt", "part.json"])
def test_a_damaged_part_is_as_good_as_none(tmp_path: Path, name: str) -> None:
    work = StageCheckpoints(tmp_path / "work", "key")
    work.save("part", "a part", {"x": 1}, nn.Linear(1, 1))
    found = work.load("part")
    assert found is not None
    assert found.values == {"x": 1}
    content = bytearray((tmp_path / "work" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "work" / name).write_bytes(content)
    assert work.load("part") is None


def ends_by(error: BaseException, work: StageCheckpoints) -> None:
    work.save("part", "a part", {}, nn.Linear(1, 1))
    assert work.names == ("part",)
    raise error


def test_what_is_interrupted_keeps_its_work_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / ".ctr.work"
    work = StageCheckpoints.open(folder, "key", resume=False)
    with pytest.raises(KeyboardInterrupt), remove_when_done(work):
        ends_by(KeyboardInterrupt(), work)
    assert work.names == ("part",)
    assert "--resume" in capsys.readouterr().err
    with remove_when_done(StageCheckpoints.open(folder, "key", resume=True)):
        pass
    assert not list(tmp_path.iterdir())


def test_a_result_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    folder = tmp_path / ".ctr.work"
    work = StageCheckpoints.open(folder, "key", resume=False)
    with pytest.raises(ValidationFailed), remove_when_done(work):
        ends_by(ValidationFailed("no"), work)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing file data/0")]
)
def test_work_that_cannot_be_saved_is_a_warning_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(content: object, file: BinaryIO) -> None:
        file.write(b"half of it")
        raise error

    work = StageCheckpoints(tmp_path / "work", "key")
    monkeypatch.setattr(torch, "save", fail)
    with remove_when_done(work):
        work.save("part", "a part", {}, nn.Linear(1, 1))
        assert work.load("part") is None
        assert not list((tmp_path / "work").glob("part*"))
    assert "Warning: a part could not be saved in" in capsys.readouterr().err


def test_the_reason_of_the_file_system_is_told_where_pytorch_reports_positions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    work = StageCheckpoints(tmp_path / "work", "key")
    with file_size_limit(10_000):
        work.save("part", "a part", {}, nn.Linear(100, 100))
    assert f"a part could not be saved in {tmp_path / 'work'} (File too large)" in capsys.readouterr().err


def test_a_folder_without_a_finished_stage_is_removed_by_an_interruption(tmp_path: Path) -> None:
    work = StageCheckpoints.open(tmp_path / ".ctr.work", "key", resume=False)
    (tmp_path / ".ctr.work").mkdir()
    (tmp_path / ".ctr.work" / "work.json").write_text("{}")
    with pytest.raises(OSError, match="full"), remove_when_done(work):
        raise OSError(28, "full")
    assert not list(tmp_path.iterdir())


def test_work_that_cannot_be_removed_does_not_lose_a_finished_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(folder: Path) -> None:
        raise PermissionError(13, "Permission denied")

    work = StageCheckpoints(tmp_path / "work", "key")
    work.save("part", "a part", {}, nn.Linear(1, 1))
    with remove_when_done(work):
        monkeypatch.setattr("shutil.rmtree", fail)
    assert "cannot be removed (Permission denied)" in capsys.readouterr().err


def test_nothing_in_the_folder_is_unpickled(tmp_path: Path) -> None:
    import hashlib

    from tests.program.hostile import Trap

    work = StageCheckpoints(tmp_path / "work", "key")
    work.save("part", "a part", {}, nn.Linear(1, 1))
    torch.save({"state": {}, "random": Trap(tmp_path / "marker")}, tmp_path / "work" / "part.pt")
    said = json.loads((tmp_path / "work" / "part.json").read_text())
    said["sha256"] = hashlib.sha256((tmp_path / "work" / "part.pt").read_bytes()).hexdigest()
    (tmp_path / "work" / "part.json").write_text(json.dumps(said))
    assert work.load("part") is None
    assert not (tmp_path / "marker").exists()


@pytest.mark.slow
def test_a_process_that_is_killed_for_real_goes_on(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from recprune_export.pipeline.compress import compress_program\n"
        "from tests.pipeline.test_stage_checkpoints import SETTINGS, program\n"
        "compress_program(program(), Path(sys.argv[1]), SETTINGS, resume='resume' in sys.argv)"
    )

    def process(target: Path, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", code, str(target), *words], cwd=ROOT, start_new_session=True)

    assert process(tmp_path / "whole").wait(200) == 0
    killed = process(tmp_path / "ctr")
    while not StageCheckpoints(get_checkpoint_folder(tmp_path / "ctr")).names:
        assert killed.poll() is None
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "ctr").exists()
    assert process(tmp_path / "ctr", "resume").wait(200) == 0
    for name in ("model.onnx", "plan.json", "samples/outputs.npz"):
        assert (tmp_path / "ctr" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert verify(tmp_path / "ctr").rows == 16
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ctr", "whole"]
