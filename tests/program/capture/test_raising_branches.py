"""Branches by the values of a request: one that only refuses requests is left out and said, any other is refused."""

from collections.abc import Callable

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import Phase, given, settings
from torch import Tensor, nn

from recprune_export.errors import CaptureError
from recprune_export.program.capture import capture
from recprune_export.program.capture.raising_branches import find_raising_branches

REQUEST = (torch.arange(7),)


def of_one_side(module: "Checked", ids: Tensor) -> None:
    if (ids < 0).any():
        raise ValueError(f"negative ids: {ids.min()}")


def of_two_conditions(module: "Checked", ids: Tensor) -> None:
    if (ids < 0).any() or not (ids < 50).all():
        raise ValueError("out of range")


def with_an_else(module: "Checked", ids: Tensor) -> None:
    if (ids < 50).all():
        module.calls += 1
    else:
        raise IndexError("too large")


def of_a_helper(module: "Checked", ids: Tensor) -> None:
    of_one_side(module, module.table(ids).isnan().long().neg())


def of_another_class(module: "Checked", ids: Tensor) -> None:
    class Refused(Exception):
        pass

    if bool((ids == 49).any()):
        raise Refused


CHECKS = (of_one_side, of_two_conditions, with_an_else, of_a_helper, of_another_class)


class Checked(nn.Module):
    def __init__(self, checks: list[Callable[["Checked", Tensor], None]]) -> None:
        super().__init__()
        self.table, self.top, self.checks, self.calls = nn.Embedding(50, 8), nn.Linear(8, 1), checks, 0

    def forward(self, ids: Tensor) -> Tensor:
        for check in self.checks:
            check(self, ids)
        return self.top(self.table(ids)).squeeze(1)


@settings(max_examples=8, phases=[Phase.generate])
@given(checks=st.lists(st.sampled_from(CHECKS), min_size=1, max_size=3, unique=True))
def test_a_branch_that_only_refuses_is_left_out_and_said(checks: list[Callable[[Checked, Tensor], None]]) -> None:
    module = Checked(checks).eval()
    program = capture(module, REQUEST)
    said = [note for note in program.notes if "The model refuses some requests" in note]
    lines = {check.__code__.co_firstlineno for check in checks if check is not of_a_helper}
    assert len(said) >= len(lines)
    assert all("test_raising_branches.py" in note and "check them before" in note for note in said)
    torch.testing.assert_close(program({"ids": REQUEST[0]})["output"], module(*REQUEST))


def goes_on(module: Checked, ids: Tensor) -> None:
    if (ids < 0).any():
        module.calls += 1


def fails_elsewhere(module: Checked, ids: Tensor) -> None:
    """The other side fails by an operator, and could go on with other requests."""
    if (ids < 0).any():
        module.table(ids[:, 0])


def raises_later(module: Checked, ids: Tensor) -> None:
    """The other side does something, before another condition refuses the request."""
    seen = 0
    if (ids < 0).any():
        seen = 1
    if (ids >= seen * 3).any() and seen:
        raise ValueError("too large")


def is_caught(module: Checked, ids: Tensor) -> None:
    try:
        of_one_side(module, ids)
    except ValueError:
        module.calls += 1


@pytest.mark.parametrize("check", [goes_on, fails_elsewhere, raises_later, is_caught])
def test_a_branch_with_two_sides_is_refused_at_its_line(check: Callable[[Checked, Tensor], None]) -> None:
    module = Checked([of_two_conditions, check]).eval()
    with pytest.raises(
        CaptureError, match=r"depends on the values of a request at .*test_raising_branches.py, line \d+"
    ) as raised:
        capture(module, REQUEST)
    line = int(str(raised.value).partition(", line ")[2].partition(":")[0])
    function = of_one_side if check is is_caught else check
    first = function.__code__.co_firstlineno
    assert first < line <= max(number for *_, number in function.__code__.co_lines() if number)


def test_nothing_is_looked_for_where_the_model_does_not_branch() -> None:
    assert find_raising_branches(Checked([]).eval(), REQUEST, {}) == []
