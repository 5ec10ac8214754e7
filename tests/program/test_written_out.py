"""Operators that are written out as others answer as before, can be pruned, and go to ONNX."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recprune_export.onnx.export import export_onnx
from recprune_export.onnx.session import make_session, run
from tests.properties import check_any_plan, prunable


class Distances(nn.Module):
    """Minus the distance of a user to each candidate."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(9, 6), nn.Embedding(40, 6)

    def forward(self, user: Tensor, candidates: Tensor) -> Tensor:
        return -torch.cdist(self.users(user).unsqueeze(1), self.items(candidates)).squeeze(1)


@pytest.mark.parametrize("candidates", [5, 30])  # PyTorch computes many of them by a product
def test_distances_of_all_pairs(tmp_path: Path, candidates: int) -> None:
    module = Distances()
    request = {"user": torch.tensor([0, 4, 2]), "candidates": torch.randint(40, (3, candidates))}
    program, analysis = check_any_plan(module, *request.values())
    assert {("users.weight", 1), ("items.weight", 1)} <= prunable(analysis)
    torch.testing.assert_close(program(request)["output"], module(*request.values()))
    file = export_onnx(program, tmp_path / "model.onnx")
    found = run(make_session(file.path, 1), {name: values.numpy() for name, values in request.items()})
    np.testing.assert_allclose(found["output"], module(*request.values()).detach().numpy(), rtol=1e-4, atol=1e-4)


def test_a_distance_of_zero_has_a_slope() -> None:
    program, _ = check_any_plan(Distances(), torch.tensor([0, 4, 2]), torch.randint(40, (3, 30)))
    users, items = (program.parameters()[f"{name}.weight"] for name in ("users", "items"))
    with torch.no_grad():
        items[:3] = users[:3]
    request = {"user": torch.tensor([0, 1, 2]), "candidates": torch.arange(30).expand(3, 30)}
    gradients = torch.autograd.grad(program(request)["output"].sum(), [users, items])
    assert all(gradient.isfinite().all() for gradient in gradients)
