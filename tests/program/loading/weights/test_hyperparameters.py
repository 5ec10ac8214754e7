from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from recprune_export.errors import ModelFileError, UsageError
from recprune_export.program import load_program
from recprune_export.program.loading.weights.hyperparameters import find_hyperparameters
from tests.program.loading.weight_files import REQUEST, Scorer, make

HERE = __name__


def make_wide(dim: int, rows: int = 10) -> Scorer:
    assert rows == 10
    return make(dim)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    np.savez(tmp_path / "example.npz", **REQUEST)
    return tmp_path / "example.npz"


def save(folder: Path, **hyper_parameters: object) -> Path:
    torch.save({"state_dict": make(6).state_dict(), "hyper_parameters": hyper_parameters}, folder / "last.ckpt")
    return folder / "last.ckpt"


def test_the_factory_gets_the_hyperparameters_that_are_its_parameters(tmp_path: Path, example: Path) -> None:
    loaded = load_program(save(tmp_path, dim=6, lr=0.1), factory=f"{HERE}:make_wide", inputs=example)
    request = {name: torch.as_tensor(values) for name, values in REQUEST.items()}
    with torch.no_grad():
        (found,) = loaded.program(request).values()
        torch.testing.assert_close(found, make(6)(**request))
    assert [note for note in loaded.program.notes if "gets dim from 'hyper_parameters'" in note]


def test_arguments_of_the_user_come_before_those_of_the_file(tmp_path: Path, example: Path) -> None:
    path = save(tmp_path, dim=3)
    with pytest.raises(ModelFileError, match="shape"):
        load_program(path, factory=f"{HERE}:make_wide", inputs=example)
    loaded = load_program(path, factory=f"{HERE}:make_wide", factory_args={"dim": 6}, inputs=example)
    assert not [note for note in loaded.program.notes if "hyper_parameters" in note]


def test_objects_are_no_arguments(tmp_path: Path, example: Path) -> None:
    path = save(tmp_path, dim=SimpleNamespace(dim=6))
    with pytest.raises(UsageError, match=r"make_wide needs dim: give --factory-args '{\"dim\": \"...\"}'"):
        load_program(path, factory=f"{HERE}:make_wide", inputs=example)


@pytest.mark.parametrize("content", [{}, {"hyper_parameters": None}, {"hyper_parameters": [1]}, torch.ones(1), None])
def test_a_file_without_hyperparameters_has_none(content: object) -> None:
    assert find_hyperparameters(content) == {}


def test_tensors_and_objects_inside_of_values_are_left_out() -> None:
    stored = {
        "plain": {"sizes": (3, [4.0, None, True, "x"])},
        "tensor": [torch.ones(1)],
        "object": {"a": object()},
        3: 4,
    }
    assert find_hyperparameters({"hyper_parameters": stored}) == {"plain": stored["plain"]}
