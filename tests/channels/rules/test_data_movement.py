from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.properties import Tower, check_any_plan, group_of, prunable

X = torch.randn(3, 4)
IDS = (torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5]), torch.tensor([1, 1, 0]))


@pytest.mark.parametrize(
    "operator",
    [
        lambda h: h.unsqueeze(1).squeeze(1),
        lambda h: h.view(-1, 2, 3).flatten(1),
        lambda h: h.unflatten(1, (3, 2)).transpose(1, 2).reshape(-1, 6),
        lambda h: torch.cat([h, h], 1)[:, :6],
        lambda h: torch.cat(h.chunk(2, 1)[::-1], 1),
        lambda h: torch.cat(h.split([1, 5], 1), 1),
        lambda h: h.unsqueeze(1).expand(-1, 3, -1).sum(1),
        lambda h: h.repeat(1, 2)[:, 3:9],
        lambda h: h.permute(1, 0).t().contiguous(),
        lambda h: h[:, [5, 4, 3, 2, 1, 0]],
        lambda h: h.index_select(1, torch.tensor([1, 0, 3, 2, 5, 4])),
        lambda h: h.narrow(1, 0, 6),
    ],
)
def test_hidden_units_are_followed(operator: Callable[[Tensor], Tensor]) -> None:
    _, analysis = check_any_plan(Tower(operator), X)
    assert ("first.weight", 0) in prunable(analysis)


@pytest.mark.parametrize(
    "operator", [lambda h: torch.stack(h.unbind(1), 1), lambda h: torch.stack([h[:, i] for i in range(6)], 1)]
)
def test_units_that_are_taken_one_by_one_stay(operator: Callable[[Tensor], Tensor]) -> None:
    """Each is the only one on its axis for a moment: it may be frozen, but never wrong."""
    _, analysis = check_any_plan(Tower(operator), X)
    assert ("last.weight", 0) not in prunable(analysis)


class Fields(nn.Module):
    """Three fields, put together in a way under test, and an MLP."""

    def __init__(self, together: Callable[[list[Tensor]], Tensor], left: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(9, 6) for _ in range(3))
        self.together = together
        self.mlp = nn.Sequential(nn.Linear(left, 5), nn.ReLU(), nn.Linear(5, 1))

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return self.mlp(self.together([t(i) for t, i in zip(self.tables, (a, b, c), strict=True)]))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "together",
    [
        lambda e: torch.cat(e, 1),
        lambda e: torch.stack(e, 1).flatten(1),
        lambda e: torch.stack(e, 1).view(-1, 18),
        lambda e: torch.cat([x.unsqueeze(1) for x in e], 1).reshape(-1, 18),
    ],
)
def test_each_field_has_a_width_of_its_own(together: Callable[[list[Tensor]], Tensor]) -> None:
    _, analysis = check_any_plan(Fields(together, 18), *IDS)
    assert len([g for g in analysis.groups if g.kind == "embedding"]) == 3


def test_what_is_summed_over_fields_is_tied() -> None:
    _, analysis = check_any_plan(Fields(lambda e: torch.stack(e, 1).sum(1), 6), *IDS)
    assert {(f"tables.{i}.weight", 1) for i in range(3)} <= group_of(analysis, "tables.0.weight", 1)


def test_pairs_of_dot_products_tie_the_fields() -> None:
    rows, columns = torch.triu_indices(3, 3, 1)

    def pairs(e: list[Tensor]) -> Tensor:
        z = torch.stack(e, 1)
        return (z @ z.transpose(1, 2))[:, rows, columns]

    _, analysis = check_any_plan(Fields(pairs, 3), *IDS)
    assert {(f"tables.{i}.weight", 1) for i in range(3)} <= group_of(analysis, "tables.0.weight", 1)
