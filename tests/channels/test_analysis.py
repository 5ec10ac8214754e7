import torch
from torch import Tensor, nn

from recprune_export.channels.analysis import analyse
from recprune_export.program.capture import capture
from tests.properties import check_any_plan, no_zeros, prunable, reasons


def test_an_operator_without_a_rule_freezes_what_it_touches_and_says_so() -> None:
    _, analysis = check_any_plan(Two(), torch.randn(3, 4))
    assert "lgamma has no rule" in reasons(analysis, "odd.weight", 0)
    assert ("plain.weight", 0) in prunable(analysis)


class Two(nn.Module):
    """One branch through an operator that nobody wrote a rule for, one without."""

    def __init__(self) -> None:
        super().__init__()
        self.odd, self.plain, self.last = nn.Linear(4, 5), nn.Linear(4, 6), nn.Linear(11, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.odd(x).lgamma(), torch.relu(self.plain(x))], 1))  # type: ignore[no-any-return]


def test_the_reason_names_the_line_of_the_users_source() -> None:
    analysis = analyse(capture(no_zeros(Two()), (torch.randn(3, 4),)))
    (odd,) = [axis for axis in analysis.frozen if (axis.tensor, axis.axis) == ("odd.weight", 0)]
    assert "test_analysis.py" in odd.reason.source
    assert odd.count == 5


def test_the_rows_of_a_table_stay() -> None:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.last = nn.Embedding(30, 6), nn.Linear(6, 1)

        def forward(self, ids: Tensor) -> Tensor:
            return self.last(self.table(ids))  # type: ignore[no-any-return]

    _, analysis = check_any_plan(Wide(), torch.tensor([1, 2, 3]))
    assert analysis.tables == {"table.weight"}
    assert ("table.weight", 0) not in prunable(analysis)


def test_positions_are_no_table_of_ids() -> None:
    class Placed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items, self.places, self.last = nn.Embedding(30, 6), nn.Embedding(5, 6), nn.Linear(6, 1)

        def forward(self, ids: Tensor) -> Tensor:
            return self.last(self.items(ids) + self.places(torch.arange(5)))  # type: ignore[no-any-return]

    _, analysis = check_any_plan(Placed(), torch.zeros(3, 5, dtype=torch.int64))
    assert analysis.tables == {"items.weight"}
    assert {("items.weight", 1), ("places.weight", 1)} <= prunable(analysis)


def test_the_same_module_gives_the_same_groups() -> None:
    program = capture(no_zeros(Two()), (torch.randn(3, 4),))
    one, two = analyse(program), analyse(program)
    assert [(g.name, g.axes()) for g in one.groups] == [(g.name, g.axes()) for g in two.groups]
