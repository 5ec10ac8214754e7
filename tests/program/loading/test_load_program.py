import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recprune_export.errors import DataError, ModelFileError, RecpruneError, UsageError
from recprune_export.program import ModelKind, load_program
from recprune_export.program.capture import capture
from recprune_export.program.loading.detect import detect_model_kind
from tests.program.loading.weight_files import make


def fails() -> nn.Module:
    raise RuntimeError("no weights here")


def needs(rows: int, *, dim: int, scale: float = 1.0) -> nn.Module:
    raise AssertionError((rows, dim, scale))


FACTORY = "tests.program.loading.test_load_program:make"
REQUEST = {"user": np.array([1, 2, 3]), "x": np.ones((3, 2))}


@pytest.fixture
def example(tmp_path: Path) -> Path:
    np.savez(tmp_path / "example.npz", **REQUEST)
    return tmp_path / "example.npz"


def answer(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module(torch.tensor(REQUEST["user"]), torch.tensor(REQUEST["x"], dtype=torch.float32))  # type: ignore[no-any-return]


def check(path: Path, kind: ModelKind, **options: object) -> None:
    loaded = load_program(path, **options)  # type: ignore[arg-type]
    assert loaded.kind is kind
    request = {"user": torch.tensor(REQUEST["user"]), "x": torch.tensor(REQUEST["x"], dtype=torch.float32)}
    with torch.no_grad():
        (found,) = loaded.program(request).values()
    torch.testing.assert_close(found, answer(make()))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
@pytest.mark.parametrize("nested", [False, True])
def test_a_state_dict_with_its_factory(tmp_path: Path, example: Path, prefix: str, nested: bool) -> None:
    state = {prefix + name: value for name, value in make().state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3} if nested else state, tmp_path / "model.pt")
    check(tmp_path / "model.pt", ModelKind.STATE_DICT, factory=FACTORY, inputs=example)


@pytest.mark.parametrize("save", [torch.save, lambda module, path: path.write_bytes(pickle.dumps(module))])
def test_a_pickled_module_when_the_user_says_so(tmp_path: Path, example: Path, save: Callable[..., object]) -> None:
    save(make(), tmp_path / "model.pt")
    check(tmp_path / "model.pt", ModelKind.PICKLED_MODULE, unsafe_unpickle=True, inputs=example)


def test_programs_of_ours_and_of_others(tmp_path: Path) -> None:
    args = (torch.tensor([1, 2, 3]), torch.ones(3, 2))
    capture(make(), args).save(tmp_path / "ours.pt2")
    check(tmp_path / "ours.pt2", ModelKind.PROGRAM)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(make(), args, dynamic_shapes=({0: batch}, {0: batch}), strict=False)
    torch.export.save(exported, tmp_path / "theirs.pt2")
    check(tmp_path / "theirs.pt2", ModelKind.PROGRAM)


def test_the_ending_does_not_matter(tmp_path: Path) -> None:
    capture(make(), (torch.tensor([1, 2, 3]), torch.ones(3, 2))).save(tmp_path / "model.pt2")
    (tmp_path / "model.pt2").rename(tmp_path / "model.onnx")
    check(tmp_path / "model.onnx", ModelKind.PROGRAM)


def test_positional_arrays_and_a_dict_of_arrays_are_matched(tmp_path: Path) -> None:
    torch.save(make().state_dict(), tmp_path / "model.pt")
    np.savez(tmp_path / "positional.npz", *REQUEST.values())
    loaded = load_program(tmp_path / "model.pt", factory=FACTORY, inputs=tmp_path / "positional.npz")
    assert [i.name for i in loaded.program.signature.inputs] == ["user", "x"]


def script(path: Path) -> None:
    torch.jit.save(torch.jit.trace(make(), (torch.tensor([1, 2, 3]), torch.ones(3, 2))), path)


def nan_weights(path: Path) -> None:
    state = make().state_dict()
    state["table.weight"][3, 1] = torch.nan
    torch.save(state, path)


def weights(path: Path) -> None:
    torch.save(make().state_dict(), path)


def wider_weights(path: Path) -> None:
    torch.save(make(5).state_dict(), path)


BAD: list[tuple[str, Callable[[Path], object], dict[str, object], type[RecpruneError], str]] = [
    ("CSV", lambda p: p.write_text("user,item\n1,2\n"), {}, ModelFileError, "unknown kind"),
    ("Parquet", lambda p: p.write_bytes(b"PAR1...."), {}, ModelFileError, "--data"),
    ("directory", lambda p: p.mkdir(), {}, ModelFileError, "directory"),
    ("dict of numbers", lambda p: torch.save({"epoch": 3}, p), {}, ModelFileError, "neither a state dict"),
    (
        "NaN in a table",
        nan_weights,
        {"factory": FACTORY},
        ModelFileError,
        r"'table.weight' .* contains nan at \[3, 1\]",
    ),
    ("another shape", wider_weights, {"factory": FACTORY}, ModelFileError, "has shape"),
    ("no such module", weights, {"factory": "no_such:make"}, UsageError, "cannot be imported"),
    ("no such function", weights, {"factory": FACTORY + "r"}, UsageError, "has no 'maker'"),
    ("no colon", weights, {"factory": "make"}, UsageError, "package.module:function"),
    ("failing factory", weights, {"factory": FACTORY.replace(":make", ":fails")}, UsageError, "no weights here"),
    ("wrong arguments", weights, {"factory": FACTORY, "factory_args": {"x": 1}}, UsageError, "failed with"),
    ("no example", weights, {"factory": FACTORY, "inputs": None}, UsageError, "--inputs"),
    ("neither", weights, {"inputs": None}, UsageError, "--factory package.module:function, and an example .* --inputs"),
    ("no factory", weights, {}, UsageError, "--factory package.module:function.$"),
    (
        "missing arguments",
        weights,
        {"factory": FACTORY.replace(":make", ":needs")},
        UsageError,
        "needs rows, dim: give",
    ),
]


@pytest.mark.parametrize(
    ("write", "options", "error", "said"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_what_is_wrong_is_said_in_one_sentence(
    write: Callable[[Path], object],
    options: dict[str, object],
    error: type[RecpruneError],
    said: str,
    tmp_path: Path,
    example: Path,
) -> None:
    write(tmp_path / "model")
    with pytest.raises(error, match=said) as raised:
        load_program(tmp_path / "model", **{"inputs": example, **options})  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [({"customer": np.zeros(3)}, "forward takes"), ({}, "contains no array"), ({"user": np.array(["a"])}, "dtype")],
)
def test_an_example_that_does_not_fit_is_said(tmp_path: Path, arrays: dict[str, np.ndarray], said: str) -> None:
    torch.save(make().state_dict(), tmp_path / "model.pt")
    np.savez(tmp_path / "example.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=said):
        load_program(tmp_path / "model.pt", factory=FACTORY, inputs=tmp_path / "example.npz")


def test_every_kind_has_words_of_its_own() -> None:
    assert len({kind.value for kind in ModelKind}) == len(ModelKind)
    assert detect_model_kind(Path("/no/such/file")) is ModelKind.MISSING
