"""Files of `torch.save` and `pickle` in all their forms: the same tensors as PyTorch's own reader, and nothing executed."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from recprune_export.program.loading.weights.inert_objects import GlobalName, InertObject
from recprune_export.program.loading.weights.inert_unpickler import InertPickleError, unpickle_inert
from recprune_export.program.loading.weights.state_dicts import find_state_dicts, view_entries
from recprune_export.program.loading.weights.torch_files import read_inert, read_torch_file
from tests.largest_allocation import LargestAllocation
from tests.program.hostile import Trap


@dataclass
class Config:
    """A configuration object of the user's, with things of all kinds in it."""

    dim: int = 4
    names: dict[Any, Any] = field(default_factory=lambda: {"a": [1, 2], 3: (4, None), ("x", 1): {True, b"y"}})
    tensor: Tensor = field(default_factory=lambda: torch.ones(2))


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.user = nn.Embedding(30, 4)
        self.mlp = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.mlp[2].weight = nn.Parameter(torch.randn(3, 1).t())  # not contiguous
        self.scale = nn.Parameter(torch.randn(3, dtype=torch.bfloat16))
        self.register_buffer("position", torch.arange(3))
        self.register_buffer("scratch", torch.ones(2), persistent=False)


def save_legacy(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_legacy_protocol(protocol: int) -> Callable[[Any, Path], None]:
    return lambda content, path: torch.save(
        content, path, _use_new_zipfile_serialization=False, pickle_protocol=protocol
    )


def save_protocol(protocol: int) -> Callable[[Any, Path], None]:
    return lambda content, path: torch.save(content, path, pickle_protocol=protocol)


def pickle_protocol(protocol: int) -> Callable[[Any, Path], None]:
    def write(content: Any, path: Path) -> None:
        path.write_bytes(pickle.dumps(content, protocol=protocol))

    return write


FORMS: dict[str, Callable[[Any, Path], None]] = {
    "archive": torch.save,  # type: ignore[dict-item]
    "legacy": save_legacy,
    **{f"archive, protocol {n}": save_protocol(n) for n in range(6)},
    **{f"legacy, protocol {n}": save_legacy_protocol(n) for n in (0, 1)},
    **{f"pickle, protocol {n}": pickle_protocol(n) for n in range(6)},
}


def check_same(tensors: Any, state: dict[str, Tensor]) -> None:
    assert list(tensors) == list(state)
    for name, tensor in state.items():
        assert torch.equal(tensors[name], tensor)
        assert (tensors[name].stride(), tensors[name].dtype) == (tensor.stride(), tensor.dtype)


@pytest.mark.parametrize("form", FORMS)
def test_tensors_beside_objects_are_those_of_pytorch(form: str, tmp_path: Path) -> None:
    network = Network()
    FORMS[form](
        {"config": Config(), "state_dict": network.state_dict(), "network": network, "epoch": 3}, tmp_path / "m"
    )
    content = read_torch_file(tmp_path / "m")
    check_same(content["state_dict"], network.state_dict())
    check_same(view_entries(content["network"]), network.state_dict())
    assert content["epoch"] == 3
    config = content["config"]
    assert isinstance(config, InertObject)
    assert config.constructor == GlobalName(__name__, "Config")
    assert config.entries["dim"] == 4
    assert [state.key for state in find_state_dicts(content) if not state.in_object] == ["state_dict"]


@pytest.mark.parametrize("form", FORMS)
def test_tied_tensors_share_their_numbers(form: str, tmp_path: Path) -> None:
    table = torch.randn(6, 2)
    FORMS[form]({"config": Config(), "a": table, "b": table[2:], "c": table.t()}, tmp_path / "m")
    content = read_inert(tmp_path / "m")
    assert torch.equal(content["b"], table[2:])
    assert torch.equal(content["c"], table.t())
    if not form.startswith("pickle"):  # where each storage is pickled anew, as PyTorch itself reads it
        assert content["a"].untyped_storage().data_ptr() == content["b"].untyped_storage().data_ptr()


@pytest.mark.parametrize("form", ["archive", "legacy"])
def test_weights_stay_in_their_file(form: str, tmp_path: Path) -> None:
    FORMS[form]({"config": Config(), "table": torch.zeros(1 << 20)}, tmp_path / "m")
    with LargestAllocation() as largest:
        table = read_inert(tmp_path / "m")["table"]
    assert largest.bytes < 1 << 20
    table[0] = 1.0  # a private page
    assert read_inert(tmp_path / "m")["table"][0] == 0.0


@pytest.mark.parametrize("form", FORMS)
def test_nothing_is_executed(form: str, tmp_path: Path) -> None:
    FORMS[form]({"state_dict": {"w": torch.ones(2)}, "trap": Trap(tmp_path / "marker")}, tmp_path / "m")
    content = read_torch_file(tmp_path / "m")
    assert torch.equal(content["state_dict"]["w"], torch.ones(2))
    assert content["trap"].constructor.name == "touch" or isinstance(content["trap"], InertObject)
    assert not (tmp_path / "marker").exists()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    | st.dictionaries(st.text(), inner, max_size=4).map(OrderedDict),
    max_leaves=12,
)  # fmt: skip


def refuse(identity: Any) -> Any:
    raise AssertionError(identity)


@given(content=PLAIN, protocol=st.integers(0, 5))
def test_plain_content_is_read_as_it_was(content: Any, protocol: int) -> None:
    assert unpickle_inert(io.BytesIO(pickle.dumps(content, protocol=protocol)), refuse) == content


@settings(max_examples=400)
@given(
    content=PLAIN,
    protocol=st.integers(0, 5),
    changes=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 255)), min_size=1),
)
def test_damaged_pickles_raise_or_are_other_plain_content(
    content: Any, protocol: int, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(pickle.dumps((content, Config()), protocol=protocol))
    for position, value in changes:
        data[position % len(data)] = value
    try:
        unpickle_inert(io.BytesIO(bytes(data)), lambda identity: refuse(identity))
    except AssertionError:
        pass  # it refers to a storage
    except Exception as error:
        assert not isinstance(error, SystemError | RecursionError)  # noqa: PT017


def pickled(*opcodes: bytes) -> io.BytesIO:
    return io.BytesIO(b"\x80\x04" + b"".join(opcodes) + b".")


@pytest.mark.parametrize(
    "stream",
    [
        pickled(b"cos\nsystem\n", b"X\x04\x00\x00\x00true", b"\x85R"),
        pickled(b"cbuiltins\neval\n", b"X\x01\x00\x00\x001", b"\x85R"),
        pickled(b"ctorch._utils\n_rebuild_tensor_v2\n", b"}X\x08\x00\x00\x00__code__K\x01s", b"b"),
        pickled(b"cnumpy\nndarray\n)\x81"),
        pickled(b"(cos\nsystem\nX\x04\x00\x00\x00trueo"),
        pickled(b"(X\x04\x00\x00\x00trueios\nsystem\n"),
    ],
    ids=["reduce", "eval", "build on a function", "newobj", "obj", "inst"],
)
def test_calls_make_inert_objects(stream: io.BytesIO) -> None:
    assert isinstance(unpickle_inert(stream, refuse), InertObject | GlobalName)


@pytest.mark.parametrize(
    "stream",
    [
        pickled(b"\x82\x01"),  # an extension of the registry
        pickled(b"\x97"),  # a buffer outside of the pickle
        pickled(b"P1\n"),  # an identity of text
        pickled(b"P('storage', <class 'os.system'>, '0', 'cpu', 4)\n"),
        pickled(b"P('storage', <class 'torch.FloatStorage'>, '0', 'cpu', -4)\n"),
        pickled(b"e"), pickled(b"R"), pickled(b"\x86"), pickled(b"u"), pickled(b"1"), pickled(b"h\x07"),
        pickled(b"K\x01K\x02a"),
        pickled(b"}", b"]K\x01s"),  # a list as a key
        pickled(b"}", b")" * 1 + b"\x85" * 100_000, b"K\x01s"),  # a deep tuple as a key, whose hash would exhaust the stack
        pickled(b"\x8e" + struct.pack("<Q", 1 << 40)),  # a terabyte of bytes that are not there
        pickled(b"\x96" + struct.pack("<Q", 1 << 40)),
        pickled(b"X" + struct.pack("<I", 1 << 31)),
    ],
)  # fmt: skip
def test_what_no_model_does_is_refused(stream: io.BytesIO) -> None:
    with pytest.raises((InertPickleError, ValueError, IndexError, KeyError)):
        unpickle_inert(stream, refuse)


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the pickle of an archive of `torch.save`."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, content in records.items():
        inner = name.partition("/")[2]
        if inner not in (".data/serialization_id", ".data/version", "byteorder", "version"):
            content = change(content) if inner == "data.pkl" else content
            writer.write_record(inner, content, len(content))
    writer.write_end_of_file()


@pytest.mark.parametrize("number", [7, 1000, 30000])
def test_declared_sizes_are_compared_with_the_stored_ones(number: int, tmp_path: Path) -> None:
    """The number 6 is the size of the storage, the product of the shape, and nothing else in the pickle."""
    path = tmp_path / "m"
    torch.save({"c": Config(tensor=torch.ones(1)), "w": torch.arange(6.0)}, path, pickle_protocol=2)
    six, other = b"K\x06", b"M" + struct.pack("<H", number)
    rewrite(path, lambda content: content.replace(six, other))
    with pytest.raises(InertPickleError, match="declares"):
        read_inert(path)
    save_legacy({"c": Config(tensor=torch.ones(1)), "w": torch.arange(6.0)}, path)
    path.write_bytes(path.read_bytes().replace(six, other))
    with pytest.raises(InertPickleError, match=r"declares|cut off"):
        read_inert(path)


@pytest.mark.parametrize("form", ["archive", "legacy"])
def test_a_file_that_is_cut_off_is_refused(form: str, tmp_path: Path) -> None:
    FORMS[form]({"c": Config(), "w": torch.arange(60.0)}, tmp_path / "m")
    whole = (tmp_path / "m").read_bytes()
    for length in range(1, len(whole), 97):
        (tmp_path / "m").write_bytes(whole[:length])
        with pytest.raises(Exception):  # noqa: B017  # any class; the caller makes a sentence of it
            read_torch_file(tmp_path / "m")


def test_an_object_that_holds_itself_is_walked_once() -> None:
    config = InertObject(GlobalName("a", "B"))
    config.entries |= {"itself": config, "weights": {"w": torch.ones(1)}}
    assert [state.key for state in find_state_dicts({"config": config})] == ["config.weights"]
