"""Computing the picked position alone gives the same values, in fewer operations."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recprune_export.onnx import count, export_onnx, make_session, run
from recprune_export.onnx.optimizer import hoist_gather
from recprune_export.program import Program
from recprune_export.program.capture import capture
from tests.properties import no_zeros

LENGTH = 7


class Block(nn.Module):
    """Attention and an MLP, residual and normed first."""

    def __init__(self, dim: int = 8, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal  # left to the operator, instead of a mask
        self.register_buffer("mask", torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril())
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.parts = nn.ModuleList(nn.Linear(dim, dim) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(dim, 12), nn.GELU(), nn.Linear(12, dim))

    def forward(self, h: Tensor) -> Tensor:
        normed = self.norms[0](h)
        q, k, v = (part(normed).unflatten(-1, (2, -1)).transpose(1, 2) for part in self.parts[:3])
        mask = None if self.causal else self.mask
        attended = nn.functional.scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal)
        h = h + self.parts[3](attended.transpose(1, 2).flatten(2))
        return h + self.mlp(self.norms[1](h))  # type: ignore[no-any-return]


class Sequence(nn.Module):
    def __init__(self, body: nn.Module, position: int) -> None:
        super().__init__()
        self.items, self.body, self.head, self.position = nn.Embedding(20, 8), body, nn.Linear(8, 3), position

    def forward(self, history: Tensor) -> Tensor:
        return self.head(self.body(self.items(history))[:, self.position])  # type: ignore[no-any-return]


class Recurrent(nn.Module):
    """Every position depends on the one before it."""

    def forward(self, h: Tensor) -> Tensor:
        return torch.tanh(h.cumsum(1))


class Mean(nn.Module):
    def forward(self, h: Tensor) -> Tensor:
        return h - h.mean(1, keepdim=True)


BODIES = {
    "pointwise": lambda: nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8), nn.ReLU()),
    "one block": Block,
    "one causal block": lambda: Block(causal=True),
    "two blocks": lambda: nn.Sequential(Block(), nn.LayerNorm(8), Block()),
    "running sum": Recurrent,
    "mean over positions": Mean,
    "nothing": nn.Identity,
}


def exported(program: Program, path: Path, early: bool) -> Path:
    return export_onnx(program, path, rewrites=(hoist_gather,) if early else ()).path


@pytest.mark.parametrize("position", [-1, pytest.param(0, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("name", BODIES)
def test_the_picked_values_are_the_same(name: str, position: int, tmp_path: Path) -> None:
    program = capture(no_zeros(Sequence(BODIES[name](), position)), (torch.zeros(2, LENGTH, dtype=torch.int64),))
    early, late = (exported(program, tmp_path / f"{e}.onnx", early=e) for e in (True, False))
    for batch in (1, 5):
        request = {"history": np.random.default_rng(batch).integers(20, size=(batch, LENGTH))}
        (one,), (other,) = (run(make_session(p, 1), request).values() for p in (early, late))
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    assert count(early).operations <= count(late).operations


def test_the_last_block_is_computed_for_one_position(tmp_path: Path) -> None:
    program = capture(no_zeros(Sequence(Block(), -1)), (torch.zeros(2, LENGTH, dtype=torch.int64),))
    early, late = (count(exported(program, tmp_path / f"{e}.onnx", early=e)) for e in (True, False))
    # Keys and values of all positions stay; queries, output and MLP are those of one.
    saved = (LENGTH - 1) * (8 * 8 + 8 * 8 + 2 * 8 * 12 + 2 * LENGTH * 8)
    assert late.operations - early.operations == saved


def test_a_position_that_is_also_returned_whole_is_computed_whole(tmp_path: Path) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.linear(x)
            return h, torch.relu(h)[:, -1]

    program = capture(no_zeros(Both()), (torch.randn(2, LENGTH, 4),))
    x = torch.randn(3, LENGTH, 4)
    answers = run(make_session(export_onnx(program, tmp_path / "m.onnx").path, 1), {"x": x.numpy()})
    for name, value in program({"x": x}).items():
        np.testing.assert_allclose(answers[name], value.detach().numpy(), rtol=1e-5, atol=1e-5)
