"""Model files of other libraries, in the exact layout that these write: the same answers as the network that was saved."""

import io
import json
import logging
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import Shard, distribute_tensor
from torch.optim.swa_utils import AveragedModel

from recprune_export.errors import CaptureError, ModelFileError, UsageError
from recprune_export.program import ModelKind, load_program
from recprune_export.program.loading.detect import detect_model_kind
from tests.program.loading.weight_files import (
    FACTORY,
    REQUEST,
    WEIGHT_FILES,
    Scorer,
    Settings,
    answer,
    make,
    write_chunks,
    write_distributed,
    write_request,
    write_sharded,
    write_torchscript,
)

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit", "ignore:torch.distributed")


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    return write_request(tmp_path)


def check_answers(path: Path, **options: Any) -> tuple[str, ...]:
    """Assert that the loaded program answers as the network; return the notes."""
    loaded = load_program(path, **options)
    request = {name: torch.tensor(array) for name, array in REQUEST.items()}
    (output,) = loaded.program(request).values()
    torch.testing.assert_close(output, answer(request))
    assert [spec.name for spec in loaded.program.signature.inputs] == list(REQUEST)
    return loaded.program.notes


@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_weights_are_loaded_into_the_module_of_the_factory(name: str, tmp_path: Path, request_file: Path) -> None:
    WEIGHT_FILES[name](tmp_path / "model")
    check_answers(tmp_path / "model", factory=FACTORY, inputs=request_file)


KINDS = {
    "Lightning": ModelKind.STATE_DICT, "RecBole": ModelKind.STATE_DICT, "legacy": ModelKind.STATE_DICT, "pickle": ModelKind.STATE_DICT,
    "pickle of text": ModelKind.STATE_DICT, "legacy of text": ModelKind.STATE_DICT,
    "safetensors": ModelKind.SAFETENSORS, "sharded": ModelKind.HUGGING_FACE, "distributed": ModelKind.DISTRIBUTED,
    "distributed, two processes": ModelKind.DISTRIBUTED, "MLflow state dict": ModelKind.MLFLOW, "MLflow model": ModelKind.MLFLOW,
    "TorchScript": ModelKind.TORCHSCRIPT,
}  # fmt: skip


@pytest.mark.parametrize("name", WEIGHT_FILES)
def test_the_kind_follows_from_the_content(name: str, tmp_path: Path) -> None:
    WEIGHT_FILES[name](tmp_path / "model.onnx")
    assert detect_model_kind(tmp_path / "model.onnx") is KINDS[name]


@pytest.mark.parametrize(
    "name", [n for n, kind in KINDS.items() if kind not in (ModelKind.TORCHSCRIPT,) and n != "MLflow model"]
)
def test_weights_without_a_factory_ask_for_it(name: str, tmp_path: Path, request_file: Path) -> None:
    WEIGHT_FILES[name](tmp_path / "model")
    with pytest.raises(UsageError, match="--factory"):
        load_program(tmp_path / "model", inputs=request_file)


def test_an_index_is_read_where_it_is_given_itself(tmp_path: Path, request_file: Path) -> None:
    write_sharded(tmp_path / "model")
    index = tmp_path / "model" / "model.safetensors.index.json"
    assert detect_model_kind(index) is ModelKind.SHARDED
    check_answers(index, factory=FACTORY, inputs=request_file)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/hostname", "missing.safetensors"])
def test_an_index_names_files_beside_it_alone(file: str, tmp_path: Path, request_file: Path) -> None:
    write_sharded(tmp_path / "model")
    index = tmp_path / "model" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["head.bias"] = file
    index.write_text(json.dumps(content))
    with pytest.raises(ModelFileError, match="does not exist in the same folder"):
        load_program(tmp_path / "model", factory=FACTORY, inputs=request_file)


def test_a_distributed_checkpoint_reads_the_weights_alone(tmp_path: Path, request_file: Path) -> None:
    """The optimizer's tensors are damaged, and nobody looks at them."""
    from recprune_export.program.loading.weights.distributed_checkpoint import DistributedCheckpoint

    write_distributed(tmp_path / "model")
    checkpoint = DistributedCheckpoint(tmp_path / "model")
    assert all(tensor.is_meta for tensor in checkpoint.content["model"].values())
    loaded = checkpoint.load(checkpoint.content["model"])
    assert {name: tuple(t.shape) for name, t in loaded.items()} == {
        n: tuple(t.shape) for n, t in make().state_dict().items()
    }


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "__1_0.distcp").unlink(), "does not exist"),
        (lambda folder: (folder / "__1_0.distcp").write_bytes(b"PK"), "truncated"),
        (lambda folder: (folder / "__0_0.distcp").write_bytes((folder / "__0_0.distcp").read_bytes()[::-1]), "damaged"),
    ],
)
def test_missing_shards_are_named(
    damage: Callable[[Path], object], said: str, tmp_path: Path, request_file: Path
) -> None:
    write_chunks(tmp_path / "model")
    damage(tmp_path / "model")
    with pytest.raises(ModelFileError, match=said):
        load_program(tmp_path / "model", factory=FACTORY, inputs=request_file)


@pytest.mark.parametrize(
    ("chunks", "said"),
    [
        ([((0, 0), (6, 4)), ((4, 0), (4, 4))], "not covered"),  # they overlap
        ([((0, 0), (6, 4))], "not covered"),  # a part is missing
        ([((0, 0), (10**9, 4))], "declares more numbers"),
        ([((0, 0), (10, 4))], "does not contain"),  # the stored chunk is smaller
    ],
)
def test_chunks_have_to_make_up_a_tensor_that_is_stored(
    chunks: list[tuple[tuple[int, ...], tuple[int, ...]]], said: str, tmp_path: Path, request_file: Path
) -> None:
    import pickle

    write_chunks(tmp_path / "model")
    path = tmp_path / "model" / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    table = metadata.state_dict_metadata["table.weight"]
    places = {index.offset: place for index, place in metadata.storage_data.items() if index.fqn == "table.weight"}
    first = places[torch.Size((0, 0))]
    table.chunks = [type(table.chunks[0])(torch.Size(offsets), torch.Size(sizes)) for offsets, sizes in chunks]
    if len(chunks) == 1 and chunks[0][1][0] > 10:
        table.size = torch.Size(chunks[0][1])
    index = type(next(iter(metadata.storage_data)))
    metadata.storage_data |= {index("table.weight", torch.Size(offsets)): first for offsets, _ in chunks}
    path.write_bytes(pickle.dumps(metadata))
    with pytest.raises(ModelFileError, match=said):
        load_program(tmp_path / "model", factory=FACTORY, inputs=request_file)


@pytest.mark.slow
def test_shards_of_two_processes_are_joined(tmp_path: Path, request_file: Path) -> None:
    code = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from tests.program.loading.weight_files import make
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}.sync", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
state = {name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in make().state_dict().items()}
dcp.save({"model": state}, checkpoint_id=folder)
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(rank), str(tmp_path / "model")], stderr=subprocess.DEVNULL)
        for rank in (0, 1)
    ]
    assert [process.wait(120) for process in processes] == [0, 0]
    assert len(list((tmp_path / "model").glob("*.distcp"))) == 2
    check_answers(tmp_path / "model", factory=FACTORY, inputs=request_file)


# tensors of several processes


@pytest.fixture
def two_processes() -> Iterator[None]:
    """This process is the first of two; the other does not exist."""
    import torch.testing._internal.distributed.fake_pg  # noqa: F401  # the backend "fake"

    dist.init_process_group("fake", rank=0, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def distribute(processes: int) -> dict[str, torch.Tensor]:
    mesh = init_device_mesh("cpu", (processes,))
    return {name: distribute_tensor(tensor, mesh, [Shard(0)]) for name, tensor in make().state_dict().items()}


@pytest.mark.usefixtures("two_processes")
@pytest.mark.parametrize("with_object", [False, True])
def test_a_part_of_each_tensor_is_refused_with_the_cure(with_object: bool, tmp_path: Path, request_file: Path) -> None:
    state = distribute(2)
    torch.save({"model": state, "settings": Settings() if with_object else None}, tmp_path / "model.pt")
    with pytest.raises(ModelFileError, match=r"part of 'table.weight': .*full_state_dict=True"):
        load_program(tmp_path / "model.pt", factory=FACTORY, inputs=request_file)


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("with_object", [False, True])
def test_distributed_tensors_of_one_process_are_whole(
    with_object: bool, tmp_path: Path, request_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save({"model": distribute(1), "settings": Settings() if with_object else None}, tmp_path / "model.pt")
    check_answers(tmp_path / "model.pt", factory=FACTORY, inputs=request_file)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.usefixtures("one_process")
def test_flat_parameters_of_fsdp_are_refused_with_the_cure(tmp_path: Path, request_file: Path) -> None:
    wrapped = FullyShardedDataParallel(make(), device_id=torch.device("cpu"))
    torch.save(dict(wrapped.named_parameters()), tmp_path / "model.pt")
    with pytest.raises(ModelFileError, match=r"'_fsdp_wrapped_module._flat_param' flattened by FSDP.*FULL_STATE_DICT"):
        load_program(tmp_path / "model.pt", factory=FACTORY, inputs=request_file)


def test_the_prefix_of_fsdp_is_left_out(tmp_path: Path, request_file: Path) -> None:
    inner = {name.replace("head.", "head._fsdp_wrapped_module."): t for name, t in make().state_dict().items()}
    torch.save({f"_fsdp_wrapped_module.{name}": t for name, t in inner.items()}, tmp_path / "model.pt")
    assert "'_fsdp_wrapped_module.'" in " ".join(
        check_answers(tmp_path / "model.pt", factory=FACTORY, inputs=request_file)
    )


# files of other forms


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_archive_is_to_be_extracted(mode: Any, tmp_path: Path, request_file: Path) -> None:
    torch.save(make().state_dict(), tmp_path / "state.pt")
    with tarfile.open(tmp_path / "model.tar", mode) as archive:
        archive.add(tmp_path / "state.pt", "model.pth")
    with pytest.raises(ModelFileError, match="a tar archive: extract it"):
        load_program(tmp_path / "model.tar", factory=FACTORY, inputs=request_file)


def test_a_file_of_early_pytorch_is_to_be_saved_again(tmp_path: Path, request_file: Path) -> None:
    with tarfile.open(tmp_path / "model.tar", "w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(ModelFileError, match=r"early version of PyTorch: .*weights_only=False"):
        load_program(tmp_path / "model.tar", factory=FACTORY, inputs=request_file)


@pytest.mark.parametrize(
    "text", ["click,label\n0.5,1\n.\n", "L,x\n", "(a)\n.", "cos\nsystem\n.", "]", "}.", "(lp0\n.", "[1, 2]\n", "c", "("]
)
def test_a_text_is_no_pickle(text: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_text(text)
    assert detect_model_kind(tmp_path / "data") is ModelKind.OTHER


# modules


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (lambda: torch.compile(make()), None),
        (lambda: nn.DataParallel(make()), None),
        (lambda: AveragedModel(torch.compile(make())), None),
        (lambda: {"model": make(), "criterion": nn.BCEWithLogitsLoss(), "epoch": 3}, None),
        (lambda: {"best": {"network": nn.DataParallel(make())}}, None),
        (lambda: {"model": make(), "ema": make(5)}, "model"),
        (lambda: (make(), 3), None),
    ],
    ids=["compiled", "parallel", "averaged", "dict", "nested", "key", "tuple"],
)
@pytest.mark.parametrize("unsafe", [True, False], ids=["unpickled", "tensors alone"])
def test_pickled_modules_in_wrappers_and_dicts(
    content: Callable[[], Any], key: str | None, unsafe: bool, tmp_path: Path, request_file: Path
) -> None:
    torch.save(content(), tmp_path / "model.pt")
    options = {"unsafe_unpickle": True} if unsafe else {"factory": FACTORY}
    check_answers(tmp_path / "model.pt", key=key, inputs=request_file, **options)


def test_several_pickled_modules_need_a_key(tmp_path: Path, request_file: Path) -> None:
    torch.save({"model": make(), "ema": make(5)}, tmp_path / "model.pt")
    with pytest.raises(UsageError, match=r"choose one with --key \('model', 'ema'\)"):
        load_program(tmp_path / "model.pt", unsafe_unpickle=True, inputs=request_file)


def test_a_module_without_its_class_can_still_be_read(tmp_path: Path, request_file: Path) -> None:
    code = f"""
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self): super().__init__(); self.table = nn.Embedding(10, 4); self.head = nn.Linear(6, 1)
net = Net(); net.load_state_dict(torch.load({str(tmp_path / "state.pt")!r}))
torch.save(net, {str(tmp_path / "model.pt")!r})
"""
    torch.save(make().state_dict(), tmp_path / "state.pt")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    with pytest.raises(ModelFileError, match="give --factory instead"):
        load_program(tmp_path / "model.pt", unsafe_unpickle=True, inputs=request_file)
    check_answers(tmp_path / "model.pt", factory=FACTORY, inputs=request_file)


def make_empty() -> nn.Module:
    with torch.device("meta"):
        return make()


def make_normalized() -> nn.Module:
    module = make()
    torch.nn.utils.parametrizations.weight_norm(module.head)
    return module


def test_a_factory_may_make_a_module_without_values(tmp_path: Path, request_file: Path) -> None:
    torch.save(make().state_dict(), tmp_path / "model.pt")
    check_answers(tmp_path / "model.pt", factory=f"{__name__}:make_empty", inputs=request_file)


def test_older_names_are_converted_by_the_layer_itself(tmp_path: Path, request_file: Path) -> None:
    module = make()
    torch.nn.utils.weight_norm(module.head)  # weight_g and weight_v
    torch.save({"net": module.state_dict()}, tmp_path / "model.pt")
    notes = check_answers(tmp_path / "model.pt", factory=f"{__name__}:make_normalized", inputs=request_file)
    assert "under 'net'" in notes[0]
    assert "older version" in notes[1]


def test_of_several_state_dicts_with_older_names_the_key_chooses(tmp_path: Path, request_file: Path) -> None:
    module = make()
    torch.nn.utils.weight_norm(module.head)
    state = module.state_dict()
    torch.save({"net": {n: t + 1 for n, t in state.items()}, "ema": state}, tmp_path / "model.pt")
    options = {"factory": f"{__name__}:make_normalized", "inputs": request_file}
    with pytest.raises(UsageError, match="--key net or --key ema"):
        load_program(tmp_path / "model.pt", **options)
    check_answers(tmp_path / "model.pt", **options, key="ema")


# TorchScript


@pytest.mark.parametrize(
    "convert", [torch.jit.script, lambda module: torch.jit.freeze(torch.jit.script(module.eval()))]
)
def test_torchscript_is_converted(convert: Callable[[nn.Module], Any], tmp_path: Path, request_file: Path) -> None:
    convert(make()).save(str(tmp_path / "model.pt"))
    notes = check_answers(tmp_path / "model.pt", inputs=request_file)
    assert "converter" in notes[0]


def test_traced_torchscript_keeps_its_names_and_parameters(tmp_path: Path, request_file: Path) -> None:
    write_torchscript(tmp_path / "model.pt")
    check_answers(tmp_path / "model.pt", inputs=request_file)
    loaded = load_program(tmp_path / "model.pt", inputs=request_file)
    assert set(loaded.program.parameters()) == set(make().state_dict())


class Branching(Scorer):
    def forward(self, user: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        rows = self.table(user)
        while bool(rows.sum() < 100.0):
            rows = rows + 1.0
        return self.head(torch.cat([rows, x], 1)).squeeze(1)


def test_torchscript_that_the_converter_refuses_gets_one_sentence(tmp_path: Path, request_file: Path) -> None:
    torch.jit.script(Branching()).save(str(tmp_path / "model.pt"))
    with pytest.raises(CaptureError, match="capture the original module with"):
        load_program(tmp_path / "model.pt", inputs=request_file)


class Writing(Scorer):
    def forward(self, user: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "marker")
        return x.sum(1)


class Restoring(Scorer):
    @torch.jit.export
    def __getstate__(self) -> int:
        return 1

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        torch.save(torch.ones(1), "marker")

    def forward(self, user: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x.sum(1)


class Mapping(Scorer):
    def forward(self, user: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return x.sum(1) + torch.from_file("marker", shared=True, size=1).sum()


@pytest.mark.parametrize("hostile", [Writing, Restoring, Mapping])
def test_torchscript_that_touches_files_is_refused_unread(
    hostile: type[nn.Module], tmp_path: Path, request_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        torch.jit.script(hostile()).save(str(tmp_path / "model.pt"))
    except RuntimeError as error:
        pytest.skip(f"TorchScript does not compile it: {error}")
    with pytest.raises(ModelFileError, match="is refused"):
        load_program(tmp_path / "model.pt", inputs=request_file)
    assert not (tmp_path / "marker").exists()


def test_declared_sizes_of_torchscript_are_checked_before_pytorch_reads_it(tmp_path: Path, request_file: Path) -> None:
    """PyTorch itself reads as many numbers of a storage as are declared, beyond its end."""
    import zipfile

    write_torchscript(tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as archive:
        records = [(entry, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        for entry, content in records:
            if entry.filename.endswith("/data.pkl"):  # the table: 10 x 4 numbers
                assert b"K\x28" in content
                content = content.replace(b"K\x28", b"M\xff\x7f")
            archive.writestr(entry, content)
    with pytest.raises(ModelFileError, match="declares 32767 numbers"):
        load_program(tmp_path / "model.pt", inputs=request_file)


def test_a_hugging_face_folder_without_weights_says_so(tmp_path: Path, request_file: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        ModelFileError, match=r"config\.json of a Hugging Face folder, but no weights: add model\.safetensors"
    ):
        load_program(tmp_path, inputs=request_file)


def test_a_folder_without_a_model_is_refused(tmp_path: Path, request_file: Path) -> None:
    with pytest.raises(ModelFileError, match="it is a directory"):
        load_program(tmp_path, factory=FACTORY, inputs=request_file)
    (tmp_path / "last.ckpt").touch()
    with pytest.raises(ModelFileError, match=r"one of the model files in it, 'last\.ckpt'"):
        load_program(tmp_path, factory=FACTORY, inputs=request_file)
    (tmp_path / "MLmodel").write_text("flavors: {sklearn: {}}")
    with pytest.raises(ModelFileError, match="without a PyTorch model"):
        load_program(tmp_path, factory=FACTORY, inputs=request_file)
    shutil.rmtree(tmp_path)
