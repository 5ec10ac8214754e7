"""Files and folders of weights that were changed: refused in a sentence, or still a model. No code of theirs runs."""

import pickle
import random
import shutil
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recprune_export.errors import ModelFileError, RecpruneError
from recprune_export.program import load_program
from tests.program.hostile import Trap
from tests.program.loading.weight_files import FACTORY, WEIGHT_FILES, write_request
from tests.program.mutations import compressed, flipped, flipped_record, names_outside, overlapping

pytestmark = [
    pytest.mark.usefixtures("little_memory"),
    pytest.mark.filterwarnings(
        "ignore:Duplicate name", "ignore:Detected pickle protocol", "ignore:.torch.jit", "ignore:torch.distributed"
    ),
]
PATIENCE = 30.0  # seconds for one file on a busy machine; one that hangs takes for ever
Change = Callable[[Path, random.Random], None]


def cut_off(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(len(content))])


def trapped(path: Path, rng: random.Random) -> None:
    """A pickle that runs code, in the place of the file or of its content."""
    trap = Trap(path.parent / "marker")
    match rng.randrange(3):
        case 0:
            path.write_bytes(pickle.dumps(trap, protocol=rng.randrange(6)))
        case 1:
            with path.open("wb") as file:
                torch.save({"state_dict": {"table.weight": trap}, "model": trap}, file)
        case 2:
            with path.open("wb") as file:
                torch.save(trap, file, _use_new_zipfile_serialization=rng.random() < 0.5)


def large_numbers(path: Path, rng: random.Random) -> None:
    """Sizes and positions that are far larger, wherever a number of the file is."""
    content = bytearray(path.read_bytes())
    position = rng.randrange(max(1, len(content) - 8))
    content[position : position + 8] = struct.pack("<Q", rng.choice((1 << 31, 1 << 40, (1 << 63) - 1)))
    path.write_bytes(bytes(content))


def other_digits(path: Path, rng: random.Random) -> None:
    """Other digits in a header or an index of text."""
    content = bytearray(path.read_bytes())
    places = [i for i, byte in enumerate(content[:2000]) if chr(byte).isdigit()]
    for place in rng.sample(places, min(3, len(places))):
        content[place] = ord(rng.choice("0123456789"))
    path.write_bytes(bytes(content))


ANY: tuple[Change, ...] = (flipped, cut_off, trapped, large_numbers, other_digits)
OF_A_ZIP: tuple[Change, ...] = (flipped_record, compressed, overlapping, names_outside)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    for name, write in WEIGHT_FILES.items():
        write(folder / name)
    write_request(folder)
    return folder


def copy(original: Path, target: Path) -> Path:
    target.parent.mkdir()
    return Path(shutil.copytree(original, target) if original.is_dir() else shutil.copy(original, target))


def change(model: Path, rng: random.Random) -> None:
    """Change one file of a model."""
    file = rng.choice(sorted(path for path in model.rglob("*") if path.is_file())) if model.is_dir() else model
    rng.choice((*ANY, *OF_A_ZIP) if zipfile.is_zipfile(file) else ANY)(file, rng)


@pytest.mark.parametrize("name", WEIGHT_FILES)
@pytest.mark.parametrize(
    "part", [range(12), pytest.param(range(12, 150), marks=pytest.mark.slow)], ids=["some", "many"]
)
def test_each_is_refused_by_name_or_still_a_model(name: str, part: range, originals: Path, tmp_path: Path) -> None:
    outcomes = []
    for seed in part:
        rng = random.Random(f"{name} {seed}")
        model = copy(originals / name, tmp_path / str(seed) / "model")
        change(model, rng)
        options = {} if name == "TorchScript" and rng.random() < 0.5 else {"factory": FACTORY}
        start = time.monotonic()
        try:
            load_program(model, inputs=originals / "request.npz", **options)  # type: ignore[arg-type]
            outcomes.append("valid")
        except RecpruneError as error:
            assert len(str(error)) > 20  # noqa: PT017
            outcomes.append("refused")
        assert not list((tmp_path / str(seed)).rglob("marker")), "code of the file ran"
        assert time.monotonic() - start < PATIENCE
        shutil.rmtree(tmp_path / str(seed))
    assert "refused" in outcomes


@pytest.mark.parametrize("name", WEIGHT_FILES)
@pytest.mark.parametrize("seed", range(4))
def test_a_trap_in_any_file_never_runs(name: str, seed: int, originals: Path, tmp_path: Path) -> None:
    model = copy(originals / name, tmp_path / "copy" / "model")
    files = sorted(path for path in model.rglob("*") if path.is_file()) if model.is_dir() else [model]
    for file in files:
        trapped(file, random.Random(seed))
    with pytest.raises(ModelFileError):
        load_program(model, inputs=originals / "request.npz", factory=FACTORY)
    assert not list(tmp_path.rglob("marker"))
