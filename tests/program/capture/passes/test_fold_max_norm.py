"""A table whose rows have a largest norm is scaled once; the user's model is left as it is."""

import pytest
import torch
from torch import Tensor, nn

from recprune_export.errors import CaptureError
from recprune_export.program.capture import capture
from tests.properties import check_any_plan, prunable


class Bounded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 6, max_norm=1.0), nn.Linear(6, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids))  # type: ignore[no-any-return]


def test_lookups_read_rows_of_the_norm_that_they_may_have() -> None:
    module, ids = Bounded().eval(), torch.tensor([0, 3, 5])
    with torch.no_grad():
        module.table.weight[7] *= 0.01  # short enough
    program = capture(module, (ids,))
    untouched = module.table.weight[8].clone()
    assert untouched.norm() > 1.0  # a row that no request has asked for
    table = program.parameters()["table.weight"].detach()
    assert table.norm(dim=1).max() <= 1.0 + 1e-6
    every = torch.arange(9)
    (answer,) = program.module(every)
    torch.testing.assert_close(answer, module(every))
    torch.testing.assert_close(program.parameters()["table.weight"], table)  # which no request changes


def test_its_dimensions_can_be_removed() -> None:
    _, analysis = check_any_plan(Bounded(), torch.tensor([0, 3, 5]))
    assert {("table.weight", 1), ("head.weight", 1)} <= prunable(analysis)
    assert analysis.tables == {"table.weight"}


class Tied(Bounded):
    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids) @ self.table.weight.T  # type: ignore[no-any-return]


def test_a_table_that_scores_items_as_well_is_refused() -> None:
    """In PyTorch its scores depend on what was looked up before."""
    with pytest.raises(CaptureError, match=r"table.weight.* has a max_norm, and is read by"):
        capture(Tied().eval(), (torch.tensor([0, 3, 5]),))
