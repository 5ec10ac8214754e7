"""A snapshot brings back every tensor, from memory or from a file, and also where the disk is full."""

import os

import pytest
import torch
from torch import nn

from recprune_export.training import weight_snapshot
from recprune_export.training.weight_snapshot import WeightSnapshot


@pytest.mark.parametrize("mapped_bytes", [0, 1 << 30])
@pytest.mark.parametrize("full", [False, True])
def test_a_module_is_set_back_to_the_last_copy(monkeypatch: pytest.MonkeyPatch, mapped_bytes: int, full: bool) -> None:
    def no_space(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weight_snapshot, "MAPPED_BYTES", mapped_bytes)
    if full:
        monkeypatch.setattr(os, "posix_fallocate", no_space)
    module = nn.Sequential(nn.Embedding(3, 2), nn.BatchNorm1d(2)).half()
    snapshot = WeightSnapshot.take(module)
    for _ in range(2):
        with torch.no_grad():
            for tensor in module.state_dict().values():
                tensor.add_(1)
        expected = {name: tensor.clone() for name, tensor in module.state_dict().items()}
        snapshot.update(module)
        with torch.no_grad():
            for tensor in module.state_dict().values():
                tensor.zero_()
        snapshot.restore(module)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in module.state_dict().items())
