"""Checkpoints larger than memory: what is read of them, and that a job on them equals the one in memory."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from recprune_export import compress, memory_limit
from recprune_export.cli.commands.compress import write_bundle_shards
from recprune_export.errors import ModelError, ModelFileError, RecpruneError, UsageError
from recprune_export.finetuning import _finetune
from recprune_export.finetuning.task import SampledRequests
from recprune_export.onnx import export_onnx
from recprune_export.pipeline._prune import PrunedModel, prune
from recprune_export.pipeline.compress import make_sampled_task
from recprune_export.pipeline.planning import make_score_inputs
from recprune_export.pipeline.streamed_models import refuse_streamed, settle_settings
from recprune_export.program import Program, load_program
from recprune_export.program.program import sample_request_rows
from recprune_export.program.streamed_tables import find_streamed_tables
from recprune_export.program.streamed_tables._write_shards import write_shards as write_row_shards
from recprune_export.pruning.importance.scores.magnitude import magnitude_l1, magnitude_l2
from recprune_export.pruning.importance.scores.score_inputs import ScoreInputs
from recprune_export.settings import Settings
from tests.program.loading.sharded_models import FACTORY, LONG, make, write_request, write_shards

KINDS = ("dtensor", "sharded_tensor")
FREE = 3_000_000  # bytes: less than three copies of any long table


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_request(folder / "request.npz")
    write_shards(folder)
    return folder


@pytest.fixture
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_limit, "available_memory", lambda: FREE)


def load(path: Path, request: Path, **options: object) -> Program:
    return load_program(path, factory=FACTORY, inputs=request, **options).program  # type: ignore[arg-type]


def cut(program: Program, epochs: int = 0) -> PrunedModel:
    settings = settle_settings(program, Settings(sparsity=0.6, structured_fraction=1.0, epochs=epochs))
    task = make_sampled_task(program, settings.finetuning)
    assert isinstance(task, SampledRequests)
    torch.manual_seed(0)
    short = replace(task, config=replace(task.config, epochs=epochs, batch_size=256))
    return prune(program, settings.pruning, settings.finetuning, short)


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("kind", KINDS)
def test_long_tables_stay_in_the_files_and_answer_as_those_in_memory(files: Path, kind: str) -> None:
    streamed = load(files / kind, files / "request.npz")
    assert sorted(find_streamed_tables(streamed.module)) == LONG
    assert any("The model is larger than memory" in note for note in streamed.notes)
    whole = load(files / "whole.pt", files / "request.npz")
    assert streamed.signature == whole.signature
    request = sample_request_rows(whole.signature, 64, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(streamed(request).values(), whole(request).values(), strict=True))


def test_what_fits_into_memory_is_loaded(files: Path) -> None:
    assert not find_streamed_tables(load(files / "dtensor", files / "request.npz").module)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cut_model_is_that_of_the_job_in_memory_bit_for_bit(
    files: Path, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = cut(load(files / "whole.pt", files / "request.npz"))
    monkeypatch.setattr(memory_limit, "available_memory", lambda: FREE)
    streamed = cut(load(files / kind, files / "request.npz"))
    assert streamed.plan.to_dict() == whole.plan.to_dict()
    assert any(len(group.keep) < group.width for group in whole.plan.stages[0].groups if group.kind == "embedding")
    weights = whole.program.parameters()
    assert all(torch.equal(weight, weights[name]) for name, weight in streamed.program.parameters().items())
    contents = []
    for name, program in (("whole", whole.program), ("streamed", streamed.program)):
        (tmp_path / name).mkdir()
        file = export_onnx(program, tmp_path / name / "model.onnx")
        assert file.data is not None
        contents.append((file.path.read_bytes(), file.data.read_bytes()))
    assert contents[0] == contents[1]


@pytest.mark.parametrize("score", [magnitude_l1, magnitude_l2])
def test_magnitudes_of_streamed_tables_are_those_of_all_rows(
    files: Path, monkeypatch: pytest.MonkeyPatch, score: Callable[[ScoreInputs], dict[str, torch.Tensor]]
) -> None:
    whole = load(files / "whole.pt", files / "request.npz")
    monkeypatch.setattr(memory_limit, "available_memory", lambda: FREE)
    streamed = load(files / "dtensor", files / "request.npz")
    expected, actual = (
        score(make_score_inputs(p, make_sampled_task(p, Settings().finetuning))) for p in (whole, streamed)
    )
    assert expected.keys() == actual.keys()
    for name, values in expected.items():
        torch.testing.assert_close(actual[name], values, rtol=1e-4, atol=0.0)


@pytest.mark.usefixtures("small_memory")
def test_tuning_leaves_long_tables_as_they_were_cut(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = load(files / "dtensor", files / "request.npz")
    untuned = cut(program).program.parameters()
    # The initial weights would be restored where they are better.
    monkeypatch.setattr(_finetune._InitialWeights, "restore", lambda self: None)
    tuned = cut(program, epochs=1)
    assert tuned.stages[0].fitted is not None
    changed = {name for name, weight in tuned.program.parameters().items() if not torch.equal(weight, untuned[name])}
    assert changed == untuned.keys() - set(LONG)


@pytest.mark.usefixtures("small_memory")
def test_a_table_that_is_multiplied_is_refused(files: Path) -> None:
    with pytest.raises(ModelError, match=r"'tables\.0\.weight' of 1\.92 MB does not fit into memory"):
        load(files / "dtensor", files / "request.npz", factory_args={"output_of_items": True})


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"structured_fraction": 0.5}, "--structured-fraction"),
        ({"prune_rows": 0.1}, "--prune-rows"),
        ({"regularize": 1.0}, "--regularize"),
        ({"max_bytes": "1MB"}, "--max-bytes"),
        ({"score": "taylor"}, "--score"),
        ({"max_drop": 0.001}, "--max-drop"),
    ],
)
def test_options_that_need_whole_tables_are_refused(files: Path, options: dict[str, object], named: str) -> None:
    program = load(files / "dtensor", files / "request.npz")
    with pytest.raises(UsageError, match=f"^{named} does not support models larger than memory"):
        settle_settings(program, Settings(**options))


@pytest.mark.usefixtures("small_memory")
def test_work_on_whole_tables_is_refused(files: Path) -> None:
    program = load(files / "dtensor", files / "request.npz")
    with pytest.raises(UsageError, match=r"^A sweep does not support models larger than memory"):
        refuse_streamed(program, "A sweep")


class _Tied(nn.Module):
    """A table of 1.3 MB that is also a layer."""

    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(20_000, 16), nn.Linear(16, 20_000, bias=False)
        if tie:
            self.layer.weight = self.table.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.layer(self.table(ids))  # type: ignore[no-any-return]


def make_tied() -> nn.Module:
    return _Tied()


@pytest.mark.parametrize("free", [1 << 40, 4_000_000])
def test_tied_tensors_under_both_names_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(memory_limit, "available_memory", lambda: free)
    np.savez(tmp_path / "request.npz", ids=np.arange(3))
    for number, (module, right) in enumerate(((_Tied(), True), (_Tied(tie=False), False))):
        dcp.save(module.state_dict(), checkpoint_id=tmp_path / str(number), no_dist=True)
        with nullcontext() if right else pytest.raises(ModelFileError, match="are one tensor in the module of"):
            program = load_program(
                tmp_path / str(number), factory=f"{__name__}:make_tied", inputs=tmp_path / "request.npz"
            ).program
            assert len(program.parameters()) == 1
            with torch.no_grad():
                assert torch.equal(program.module(torch.tensor([1, 5]))[0], module(torch.tensor([1, 5])))


@pytest.fixture
def copied(files: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(files / "dtensor", tmp_path / "model"))


@pytest.mark.usefixtures("small_memory")
def test_a_missing_file_of_shards_is_named(files: Path, copied: Path) -> None:
    (copied / "__1_0.distcp").unlink()
    with pytest.raises(ModelFileError, match=r"'__1_0\.distcp', which does not exist: copy the whole folder"):
        load(copied, files / "request.npz")


@pytest.mark.usefixtures("small_memory")
def test_a_file_that_is_cut_off_is_named(files: Path, copied: Path) -> None:
    content = (copied / "__0_0.distcp").read_bytes()
    (copied / "__0_0.distcp").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFileError, match=r"__0_0\.distcp is truncated"):
        load(copied, files / "request.npz")


@pytest.mark.usefixtures("small_memory")
@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_file_is_refused_or_read_as_before(files: Path, copied: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    content = bytearray((copied / "__0_0.distcp").read_bytes())
    for position in generator.integers(0, len(content), 200):
        content[position] ^= int(generator.integers(1, 256))
    (copied / "__0_0.distcp").write_bytes(content)
    with suppress(RecpruneError):
        load(copied, files / "request.npz")


class _Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return Path.touch, (self.path,)


@pytest.mark.usefixtures("small_memory")
def test_a_pickle_in_the_place_of_numbers_is_not_executed(files: Path, copied: Path, tmp_path: Path) -> None:
    reader = dcp.FileSystemReader(copied)
    index, place = next((i, p) for i, p in reader.read_metadata().storage_data.items() if "tables.0" in i.fqn)
    hostile = tmp_path / "hostile.pt"
    torch.save(_Hostile(tmp_path / "executed"), hostile)
    file = copied / place.relative_path
    content = file.read_bytes()
    stream = content[place.offset : place.offset + place.length]
    # An archive is read from its end: what torch.save wrote lies at the end of the bytes of the shard.
    changed = stream[: place.length - hostile.stat().st_size] + hostile.read_bytes()
    file.write_bytes(content[: place.offset] + changed + content[place.offset + place.length :])
    with pytest.raises(ModelFileError):
        load(copied, files / "request.npz")
    assert not (tmp_path / "executed").exists()
    assert index.fqn


def test_shards_are_read_by_torch_in_any_division(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recprune_export.program.streamed_tables._write_shards.SHARD_BYTES", 1000)
    state = {"table": torch.randn(101, 7), "bias": torch.randn(3), "count": torch.tensor(4), "empty": torch.empty(0, 2)}
    write_row_shards(state, tmp_path / "shards")
    read = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    dcp.load(read, checkpoint_id=tmp_path / "shards", no_dist=True)
    assert all(torch.equal(read[name], tensor) for name, tensor in state.items())
    assert len(list((tmp_path / "shards").glob("*.distcp"))) > 3
    with pytest.raises(UsageError, match="already exists"):
        write_row_shards(state, tmp_path / "shards")


def test_the_factory_makes_no_long_tables() -> None:
    from recprune_export.program.loading.long_tensors_on_meta import LongTensorsOnMeta

    with LongTensorsOnMeta(1 << 20):
        model = make()
    assert [name for name, tensor in model.named_parameters() if tensor.is_meta] == LONG
    assert model.scale.tolist() == [0.5, 0.5]


@pytest.mark.slow
@pytest.mark.usefixtures("small_memory")
def test_a_whole_job_writes_a_bundle_and_shards(files: Path, tmp_path: Path) -> None:
    source = {"factory": FACTORY, "inputs": files / "request.npz"}
    options = {"epochs": 0, "quick": True, "latency_batch_sizes": (16,), "triton": False}
    result = compress(files / "sharded_tensor", target=tmp_path / "bundle", source=source, sparsity=0.7, **options)
    assert result.reduction.tables >= 0.7
    assert result.reduction.zeroed.tables == 0.0
    assert not (tmp_path / "bundle" / "dense.onnx").exists()
    assert any("larger than memory" in note for note in result.notes)
    write_bundle_shards(tmp_path / "bundle", tmp_path / "smaller")
    weights = Program.load(tmp_path / "bundle" / "model.pt2").parameters()
    read = {name: torch.zeros_like(weight).detach() for name, weight in weights.items()}
    dcp.load(read, checkpoint_id=tmp_path / "smaller", no_dist=True)
    assert all(torch.equal(read[name], weight) for name, weight in weights.items())
