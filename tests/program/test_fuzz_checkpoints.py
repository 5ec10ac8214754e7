"""Checkpoints, state dicts and programs that were changed: refused in a sentence, or still a model. No code of theirs runs."""

import random
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recprune_export.data import SchemaOverrides
from recprune_export.errors import ModelFileError, RecpruneError, UsageError
from recprune_export.program import load_program
from recprune_export.training import train
from tests.program.hostile import write_program
from tests.program.mutations import CHANGES, compressed, pickled, stretched

pytestmark = [
    pytest.mark.usefixtures("little_memory"),
    pytest.mark.filterwarnings("ignore:Duplicate name", "ignore:Detected pickle protocol"),
]
PATIENCE = 30.0  # seconds for one file on a busy machine; one that hangs takes for ever
KINDS = ("checkpoint", "program", "state")


def make_linear() -> nn.Module:
    return nn.Linear(3, 1)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory, clicks_file: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("originals")
    wishes = SchemaOverrides(labels=("clicked",))
    train(clicks_file, "dlrm", folder / "checkpoint", wishes, {"dim": 4, "hidden": (8,)}, epochs=1, batch_size=1024)
    torch.save(make_linear().state_dict(), folder / "state")
    write_program(folder / "program")
    np.savez(folder / "example.npz", input=np.zeros((2, 3), dtype=np.float32))
    return {**{kind: folder / kind for kind in KINDS}, "example": folder / "example.npz"}


def check(path: Path, kind: str, example: Path) -> str:
    """Open a file; say what became of it."""
    source = {"factory": f"{__name__}:make_linear", "inputs": example} if kind == "state" else {}
    start = time.monotonic()
    outcome = "valid"
    try:
        load_program(path, **source)  # type: ignore[arg-type]
    except RecpruneError as error:
        assert len(str(error)) > 20  # noqa: PT017
        outcome = "refused"
    assert not (path.parent / "marker").exists(), "code of the file ran"
    assert time.monotonic() - start < PATIENCE
    return outcome


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "part", [range(20), *(pytest.param(range(s, s + 50), marks=pytest.mark.slow) for s in range(20, 320, 50))], ids=str
)
def test_each_is_refused_by_name_or_still_a_model(
    kind: str, part: range, originals: dict[str, Path], tmp_path: Path
) -> None:
    outcomes = []
    for seed in part:
        path = tmp_path / str(seed) / "model"
        path.parent.mkdir()
        shutil.copy(originals[kind], path)
        CHANGES[seed % len(CHANGES)](path, random.Random(seed))
        outcomes.append(check(path, kind, originals["example"]))
        shutil.rmtree(path.parent)
    assert outcomes.count("refused") >= len(part) // 4


@pytest.mark.parametrize("kind", ["checkpoint", "program"])
@pytest.mark.parametrize("change", [compressed, pickled, stretched])
@pytest.mark.parametrize("seed", range(4))
def test_what_can_only_be_meant_is_always_refused(
    kind: str, change: object, seed: int, originals: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "model"
    shutil.copy(originals[kind], path)
    assert callable(change)
    change(path, random.Random(seed))
    with pytest.raises(UsageError if (change, kind) == (stretched, "program") else ModelFileError):
        load_program(path)  # stretched weights turn a program into a state dict, which needs a factory
    assert not (tmp_path / "marker").exists()
