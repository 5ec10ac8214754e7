"""A width that is laid out over two axes goes by the one that lets it go, whichever of them comes first."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.properties import check_any_plan, group_of, prunable

WIDTH = 8


def by_pairs(h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions, dimensions 2i and 2i + 1 together (Su et al. 2021): h is B×L×D, cos and sin L×D/2."""
    even, odd = h.view(*h.shape[:2], WIDTH // 2, 2).unbind(-1)
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).view(h.shape)


def by_complex_numbers(h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    pairs = torch.view_as_complex(h.view(*h.shape[:2], WIDTH // 2, 2))
    return torch.view_as_real(pairs * torch.complex(cos, sin)).flatten(-2)


def maxout(h: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = h.view(*h.shape[:2], WIDTH // 2, 2).unbind(-1)
    return torch.maximum(first, second)


class Turned(nn.Module):
    """A history whose queries and keys are turned by their places."""

    def __init__(self, turn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.turn = turn
        self.table, self.last = nn.Embedding(20, 6), nn.Linear(6, 2)
        self.query, self.key = nn.Linear(6, WIDTH), nn.Linear(6, WIDTH)

    def forward(self, history: Tensor) -> Tensor:
        h = self.table(history)
        angles = torch.arange(5)[:, None] / 10 ** torch.arange(WIDTH // 2)
        query, key = (self.turn(layer(h), angles.cos(), angles.sin()) for layer in (self.query, self.key))
        return self.last((torch.softmax(query @ key.transpose(1, 2), -1) @ h).mean(1))


@pytest.mark.parametrize("turn", [by_pairs, by_complex_numbers, maxout])
def test_pairs_of_dimensions_go_together(turn: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    _, analysis = check_any_plan(Turned(turn), torch.randint(20, (3, 5)))
    assert ("query.weight", 0) in prunable(analysis)
    assert {("query.weight", 0), ("key.weight", 0)} <= group_of(analysis, "query.weight", 0)
    (group,) = [g for g in analysis.groups if ("query.weight", 0) in g.axes()]
    assert group.width == WIDTH // 2  # as many as there are pairs
