"""Bases: losses are what truncation loses, and no model is too degenerate for them."""

import pytest
import torch
from torch import Tensor, nn

from recprune_export.pipeline import make_sampled_task, plan_pruning, rotate_channels
from recprune_export.program.capture import capture
from recprune_export.pruning import Moments
from recprune_export.pruning.rotation import balanced_basis, orthogonal_basis
from recprune_export.settings import Settings


def moments(width: int = 8, rank: int = 8, seed: int = 0) -> Moments:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(300, rank, generator=generator).double() @ torch.randn(rank, width, generator=generator).double()
    g = torch.randn(300, width, generator=generator).double() * torch.logspace(0, -3, width, dtype=torch.float64)
    values = x.T @ x / 300
    return Moments(values, values, g.T @ g / 300, values)


def dropped(found: Moments, basis: Tensor, kept: int) -> float:
    """tr(Σ M) over what is dropped: values transform by Aᵀ, gradients by A⁻¹."""
    inverse = torch.linalg.inv(basis)
    values, gradients = basis.T @ found.values @ basis, inverse @ found.gradients @ inverse.T
    return float((values[kept:, kept:] * gradients[kept:, kept:]).sum())


def test_a_balanced_basis_makes_both_moments_diagonal_and_is_best() -> None:
    found = moments()
    basis, alone = balanced_basis(found)
    assert bool((alone.diff() <= 1e-12).all())
    for kept in range(1, 8):
        assert dropped(found, basis, kept) == pytest.approx(
            float(alone[kept:].sum()), rel=0.1, abs=1e-6 * float(alone.sum())
        )  # but for the ridge
        assert dropped(found, basis, kept) <= 1.05 * dropped(found, torch.eye(8).double(), kept)
        assert dropped(found, basis, kept) <= 1.05 * dropped(found, orthogonal_basis(found)[0], kept)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_an_orthogonal_basis_is_orthogonal_and_no_worse_than_none_on_average(rank: int) -> None:
    found = moments(rank=rank)
    basis, alone = orthogonal_basis(found)
    torch.testing.assert_close(basis.T @ basis, torch.eye(8).double())
    assert alone.shape == (8,)
    plain = sum(dropped(found, torch.eye(8).double(), kept) for kept in (1, 2, 4))
    assert sum(dropped(found, basis, kept) for kept in (1, 2, 4)) <= 1.01 * plain


def test_the_loss_of_each_channel_is_what_its_truncation_adds() -> None:
    found = moments()
    basis, alone = orthogonal_basis(found)
    tails = torch.tensor([dropped(found, basis, kept) for kept in range(9)], dtype=torch.float64)
    torch.testing.assert_close(alone, (tails[:-1] - tails[1:]).clamp_min(0.0))


class Degenerate(nn.Module):
    """Tables of which most dimensions are dead, copies of others, or a million times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Embedding(50, 16), nn.Embedding(40, 16)
        self.mlp = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 1))
        with torch.no_grad():
            for table in (self.a.weight, self.b.weight):
                table[:, 4:8] = table[:, :4]
                table[:, 8:12] = 0.0
            self.a.weight[:, 12] *= 1e4
            self.mlp[0].weight[:, 12] *= 1e-4

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """[B], [B] -> [B]."""
        return self.mlp(torch.cat([self.a(a), self.b(b)], 1)).squeeze(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("sparsity", [0.3, 0.9])
def test_degenerate_tables_are_rotated_without_a_change_of_the_answers(sparsity: float) -> None:
    torch.manual_seed(0)
    program = capture(Degenerate().eval(), (torch.arange(3), torch.arange(3)))
    settings = Settings(sparsity=sparsity, epochs=0, batch_size=256)
    plan = plan_pruning(program, settings.pruning, make_sampled_task(program, settings.finetuning)).plan
    assert plan.transforms
    rotate_channels(program, plan)  # compares the answers, and raises where they differ


def test_a_group_that_is_put_out_on_the_other_side_alone_has_a_basis_that_can_be_undone() -> None:
    square = torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64))
    basis, _ = balanced_basis(Moments(square, square, square, torch.zeros(3, 3, dtype=torch.float64)))
    assert int(torch.linalg.matrix_rank(basis)) == 3


def test_moments_that_float32_made_slightly_negative_have_a_basis() -> None:
    """As those of gradients, in a direction in which nothing varies; the largest directions stay what they are."""
    values = torch.diag(torch.tensor([1.0, 0.1, *([0.0] * 61), -2e-8], dtype=torch.float64))
    other = torch.eye(64, dtype=torch.float64)
    basis, loss = balanced_basis(Moments(values, values, other, torch.zeros(64, 64, dtype=torch.float64)))
    assert torch.isfinite(basis).all()
    torch.testing.assert_close(loss[:2], torch.tensor([1.0, 0.1], dtype=torch.float64), rtol=1e-4, atol=1e-5)
