"""The weights of a saved program are used where they lie in its file."""

import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.program.mapped_archive import share_stored_weights


class Scorer(nn.Module):
    """A table, a layer and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(5000, 8), nn.Linear(8, 1)
        self.register_buffer("scale", torch.rand(8))

    def forward(self, ids: Tensor) -> Tensor:
        return self.layer(self.table(ids) * self.scale).squeeze(1)  # type: ignore[no-any-return]


def test_a_loaded_program_answers_from_its_file_and_leaves_it_as_it_is(tmp_path: Path) -> None:
    program, ids = capture(Scorer(), (torch.tensor([0, 1, 2]),)), torch.tensor([7, 8])
    path = tmp_path / "model.pt2"
    program.save(path)
    content = path.read_bytes()
    loaded = Program.load(path)
    maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]
    ranges = [[int(end, 16) for end in line[0].split("-")] for line in maps]
    addresses = [parameter.data_ptr() for parameter in loaded.parameters().values()]
    assert all(any(start <= address < end for start, end in ranges) for address in addresses)
    assert all(
        torch.equal(*pair) for pair in zip(loaded({"ids": ids}).values(), program({"ids": ids}).values(), strict=True)
    )
    with torch.no_grad():
        for parameter in loaded.parameters().values():
            parameter.add_(1.0)
    assert path.read_bytes() == content


def test_saving_replaces_the_file_in_which_the_weights_of_a_loaded_program_lie(tmp_path: Path) -> None:
    program, path, link = capture(Scorer(), (torch.tensor([0, 1, 2]),)), tmp_path / "model.pt2", tmp_path / "link.pt2"
    program.save(path)
    content = path.read_bytes()
    os.link(path, link)
    capture(Scorer(), (torch.tensor([0, 1, 2]),)).save(path)
    assert link.read_bytes() == content  # truncated, the file would end a process that reads weights from it
    loaded = Program.load(link)
    loaded.save(link)
    again = Program.load(link).parameters()
    assert all(torch.equal(again[name], parameter) for name, parameter in program.parameters().items())
    assert sorted(tmp_path.iterdir()) == [link, path]


def test_weights_of_an_archive_in_another_layout_are_loaded_as_copies(tmp_path: Path) -> None:
    path, weights = tmp_path / "model.pt2", {"weight": torch.nn.Parameter(torch.ones(3))}
    for config in ({}, {"config": {"weight": {"offset": 0}}}):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data/weights/model_weights_config.json", json.dumps(config))
        exported = SimpleNamespace(state_dict=weights)
        share_stored_weights(exported, path)  # type: ignore[arg-type]
        assert torch.equal(weights["weight"], torch.ones(3))
