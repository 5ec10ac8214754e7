import pytest
import torch
from torch import Tensor, nn

from recprune_export.channels import analyze
from recprune_export.finetuning import find_table_lookups
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.pruning import apply_plan, tables_left
from tests.properties import check_any_plan, no_zeros, prunable, random_plan, reasons


def test_a_program_is_analysed_once(recommender: Program) -> None:
    assert recommender.analysis is recommender.analysis
    assert recommender.with_copied_parameters().analysis is recommender.analysis
    assert "analysis" not in vars(recommender.with_copied_graph())  # which is to be edited
    whole = analyze(recommender, fields=True)
    assert recommender.with_analysis(whole).analysis is whole
    assert recommender.analysis is not whole


def test_what_tuning_changes_does_not_change_the_analysis(recommender: Program) -> None:
    """Values of parameters and statistics, the flags of dropout and batch-norm, and how gradients of lookups are given."""
    tuned = recommender.with_copied_parameters()
    with torch.no_grad():
        for value in (*tuned.module.parameters(), *tuned.module.buffers()):
            if value.is_floating_point():
                value.uniform_(0.0, 1.0).round_()  # zeros among them
    tuned.set_training(True)
    for lookup in (node for nodes in find_table_lookups(tuned).values() for node in nodes):
        lookup.update_kwarg("sparse", True)
    assert analyze(tuned) == recommender.analysis


@pytest.mark.parametrize("seed", range(2))
def test_tables_of_a_pruned_program_are_those_that_are_left(recommender: Program, seed: int) -> None:
    pruned = apply_plan(recommender, random_plan(recommender.analysis, seed))
    assert tables_left(recommender, pruned) == analyze(pruned).tables


class LearnedFill(nn.Module):
    """Masked places hold a number that training decides; it begins at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 6, bias=False), nn.Linear(4, 1)
        self.fill = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).masked_fill(x.sum(1, keepdim=True) > 0, self.fill)
        return self.last(x) + hidden.sum(1, keepdim=True)  # type: ignore[no-any-return]


def test_a_number_that_training_decides_is_not_known_to_be_zero() -> None:
    analysis = capture(LearnedFill().eval(), (torch.randn(3, 4),)).analysis
    assert ("first.weight", 0) not in prunable(analysis)
    check_any_plan(LearnedFill(), torch.randn(3, 4))


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
    analysis = analyze(capture(no_zeros(Two()), (torch.randn(3, 4),)))
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
    one, two = analyze(program), analyze(program)
    assert [(g.name, g.axes()) for g in one.groups] == [(g.name, g.axes()) for g in two.groups]
