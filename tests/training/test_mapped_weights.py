"""Weights of a file are used where they lie, and are not changed there."""

from pathlib import Path

import torch
from torch import Tensor, nn

from recprune_export.training.mapped_weights import (
    SkipRandomInitialization,
    load_mapped,
    share_equal_tensors,
    share_tensors,
)


class Tied(nn.Module):
    """A matrix under two names, and a table in another precision than that of its file."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.table = nn.Linear(4, 4, bias=False), nn.Embedding(3, 4)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight


def test_parameters_are_those_of_the_file_tied_ones_too(tmp_path: Path) -> None:
    saved = Tied()
    saved.table.half()
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    content = (tmp_path / "weights.pt").read_bytes()
    state = load_mapped(tmp_path / "weights.pt")
    module = Tied()
    assert share_tensors(module, state) == {"first.weight", "second.weight"}
    assert module.first.weight is module.second.weight
    assert torch.equal(module.first.weight, saved.first.weight)
    with torch.no_grad():
        module.first.weight.zero_()
    del module, state
    assert (tmp_path / "weights.pt").read_bytes() == content


def test_a_module_that_changes_its_weights_while_it_loads_them_keeps_the_change() -> None:
    state: dict[str, Tensor] = {"weight": torch.ones(2, 3), "bias": torch.ones(2)}
    module = nn.Linear(3, 2)
    module.load_state_dict(state)
    with torch.no_grad():
        module.weight.mul_(2.0)
    share_equal_tensors(module, state)
    assert torch.equal(module.weight, torch.full((2, 3), 2.0))
    assert module.bias.data_ptr() == state["bias"].data_ptr()


def test_a_file_of_before_torch_1_6_is_read_into_memory(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(load_mapped(tmp_path / "old.pt")["weight"], torch.ones(3))


def test_no_parameter_is_filled_with_random_numbers() -> None:
    before = torch.get_rng_state()
    with SkipRandomInitialization():
        nn.Embedding(100, 4)
        nn.Linear(4, 4)
    assert torch.equal(torch.get_rng_state(), before)
