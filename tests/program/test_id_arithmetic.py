"""Ids behind integer arithmetic: the ranges that the graph implies, and requests drawn from them."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from recprune_export.errors import ModelError
from recprune_export.program.capture import capture
from recprune_export.program.id_arithmetic import Step, find_valid_values
from recprune_export.program.program import sample_request_tensors
from recprune_export.program.requests.valid_requests import find_valid_request

WHOLE = st.integers(-6, 6).map(float)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["add", "at least", "at most", "multiply"]), WHOLE),
    st.tuples(st.sampled_from(["floor divide", "remainder"]), st.integers(1, 6).map(float)),
)


def apply(chain: list[Step], value: int) -> float:
    functions: dict[str, Callable[[float, float], float]] = {
        "add": lambda x, c: x + c, "multiply": lambda x, c: x * c, "floor divide": lambda x, c: x // c,
        "remainder": lambda x, c: x % c, "at least": max, "at most": min,
    }  # fmt: skip
    result = float(value)
    for kind, constant in chain:
        result = functions[kind](result, constant)
    return result


@given(st.lists(STEPS, max_size=4), st.integers(0, 12))
def test_all_values_of_a_range_lead_to_valid_rows(chain: list[Step], last: int) -> None:
    found = find_valid_values(chain, (0, last))
    for value in range(-60, 61):
        if found is not None and found[0] <= value <= found[1]:
            assert 0 <= apply(chain, value) <= last


@given(
    st.lists(STEPS.filter(lambda step: step[0] not in ("remainder", "at least", "at most")), max_size=4),
    st.integers(0, 12),
)
def test_no_valid_value_is_left_out_of_monotone_chains(chain: list[Step], last: int) -> None:
    found = find_valid_values(chain, (0, last))
    valid = [value for value in range(-60, 61) if 0 <= apply(chain, value) <= last]
    assert all(found is not None and found[0] <= value <= found[1] for value in valid)


class Lookup(nn.Module):
    def __init__(self, rows: int, index: Callable[..., Tensor]) -> None:
        super().__init__()
        self.table, self.index = nn.Embedding(rows, 4), index

    def forward(self, x: Tensor) -> Tensor:
        return self.table(self.index(x)).flatten(1).sum(1)


ROWS = 11
INDICES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, int]]] = {
    "quotient": (lambda x: x // 4, (0, 43)),
    "division": (lambda x: torch.div(x, 4, rounding_mode="floor"), (0, 43)),
    "shift": (lambda x: x >> 2, (0, 43)),
    "minus": (lambda x: x - 1, (1, 11)),
    "from": (lambda x: 10 - x, (0, 10)),
    "twice": (lambda x: x * 2 + 1, (0, 4)),
    "positions": (lambda x: (x[:, None] - torch.arange(5)).clamp(min=0), (0, 10)),
}


@pytest.mark.parametrize("name", INDICES)
def test_the_range_follows_from_the_arithmetic(name: str) -> None:
    index, (low, high) = INDICES[name]
    program = capture(Lookup(ROWS, index).eval(), (torch.arange(1, 5),))
    assert program.signature.inputs[0].ids == ((low, high),)
    for seed in range(5):
        program.module(*sample_request_tensors(program.signature, 64, seed))
    program.module(torch.tensor([low, high]))


@pytest.mark.parametrize("index", [lambda x: x % ROWS, lambda x: (x * 7 + 3) % ROWS, lambda x: x.clamp(0, ROWS - 1)])
def test_a_remainder_limits_nothing(index: Callable[[Tensor], Tensor]) -> None:
    assert capture(Lookup(ROWS, index), (torch.arange(1, 5),)).signature.inputs[0].ids == ()


def test_fractions_are_no_ids() -> None:
    program = capture(Lookup(ROWS, lambda x: (x * 10).long()), (torch.rand(5),))
    assert program.signature.inputs[0].ids == ()


def test_columns_of_a_matrix_have_ranges_of_their_own() -> None:
    class QuotientRemainder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.quotient = nn.ModuleList(nn.Embedding(n // 4, 4) for n in (200, 40))
            self.remainder = nn.ModuleList(nn.Embedding(4, 4) for _ in range(2))

        def forward(self, ids: Tensor) -> Tensor:
            pairs = zip(self.quotient, self.remainder, ids.unbind(1), strict=True)
            return sum((q(x // 4) * r(x % 4)).sum(1) for q, r, x in pairs)

    program = capture(QuotientRemainder(), (torch.stack([torch.randint(0, n, (8,)) for n in (200, 40)], 1),))
    assert program.signature.inputs[0].ids == ((0, 199), (0, 39))


def test_columns_that_no_range_follows_for_are_drawn_as_observed() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(300, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.table(x[:, 0] * x[:, 1]).sum(1)

    program = capture(Mixed(), (torch.stack([torch.arange(100), torch.arange(100) % 3], 1),))
    assert program.signature.inputs[0].observed_columns == ((0.0, 99.0), (0.0, 2.0))
    for seed in range(5):
        program.module(*sample_request_tensors(program.signature, 64, seed))


def test_other_requests_are_tried_where_the_drawn_one_fails() -> None:
    program = capture(Lookup(5, lambda x: x * x), (torch.tensor([0, 1, 2]),))
    (spec,) = program.signature.inputs
    wide = program.with_signature(replace(program.signature, inputs=(replace(spec, observed=(0.0, 100.0)),)))
    assert int(find_valid_request(wide, 2)[0].max()) <= 2
    assert wide.analysis.groups


def test_a_model_that_answers_no_request_is_refused_with_the_line() -> None:
    program = capture(Lookup(30, lambda x: x * x + 25), (torch.tensor([1, 2]),))
    with torch.no_grad():
        program.module.table.weight.set_(torch.zeros(1, 4))  # type: ignore[union-attr, operator]
    with pytest.raises(ModelError, match=r"fails on requests drawn.*the valid integers of 'x'"):
        find_valid_request(program, 2)
