import pytest
import torch
from torch import Tensor, nn

from recprune_export.finetuning.rounded_weights import with_rounded_weights
from recprune_export.finetuning.sparse_updates import find_table_lookups
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.program.rounding import round_layer_weight, round_table_rows
from recprune_export.stored_bits import StoredBits


class Scorer(nn.Module):
    """A table that is looked up, one that is looked up and multiplied, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(30, 8), nn.Embedding(20, 8)
        self.mix = nn.Linear(8, 8)

    def forward(self, user: Tensor, last: Tensor) -> Tensor:
        """[B], [B] -> [B, 20]."""
        return self.mix(self.users(user) + self.items(last)) @ self.items.weight.T  # type: ignore[no-any-return]


def scorer() -> Program:
    torch.manual_seed(0)
    ids = torch.tensor([3, 4])
    return capture(Scorer().eval(), (ids, ids))


REQUEST = {"user": torch.arange(10), "last": torch.arange(10)}


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
def test_the_answers_are_those_of_rounded_weights(bits: int) -> None:
    program = scorer()
    stored = StoredBits({"users.weight": bits, "items.weight": bits}, {"mix.weight": 8})
    rounded = with_rounded_weights(program, stored)
    expected = program.with_copied_parameters()
    with torch.no_grad():
        for name, p in expected.parameters().items():
            if name in stored.tables:
                p.copy_(round_table_rows(p, bits))
            elif name in stored.layers:
                p.copy_(round_layer_weight(p, 8))
    (answer,), (reference,) = rounded(REQUEST).values(), expected(REQUEST).values()
    torch.testing.assert_close(answer, reference)
    assert not torch.equal(answer, program(REQUEST)[program.signature.outputs[0].name])


def test_looked_up_numbers_of_a_table_of_one_dimension_have_the_scale_of_the_whole_table() -> None:
    """As in the file, whichever rows a batch has."""
    biases = nn.Embedding(30, 1)
    with torch.no_grad():
        biases.weight[29] = 50.0
    program = capture(biases.eval(), (torch.tensor([3, 4]),))
    (table,) = program.parameters()
    rounded = with_rounded_weights(program, StoredBits({table: 8}))
    assert find_table_lookups(rounded).keys() == {table}  # its gradient can still be sparse
    (answer,) = rounded({program.signature.inputs[0].name: torch.arange(10)}).values()
    torch.testing.assert_close(answer, round_table_rows(biases.weight.detach(), 8)[:10])


def test_gradients_pass_the_rounding_straight_through() -> None:
    program = scorer()
    rounded = with_rounded_weights(program, StoredBits({"users.weight": 2}))
    table = program.parameters()["users.weight"]
    (rows,) = rounded(REQUEST).values()
    (gradient,) = torch.autograd.grad(rows.sum(), [table])
    (exact,) = torch.autograd.grad(next(iter(program(REQUEST).values())).sum(), [table])
    torch.testing.assert_close(gradient, exact)  # the answer is linear in the table


def test_the_program_itself_is_not_changed() -> None:
    program = scorer()
    before = program(REQUEST)
    with_rounded_weights(program, StoredBits({"items.weight": 2}, {"mix.weight": 4}))
    after = program(REQUEST)
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounded_rows_are_rounded_to_themselves(bits: int) -> None:
    rows = torch.randn(50, 12, generator=torch.Generator().manual_seed(1))
    rows[7] = 0.0
    once = round_table_rows(rows, bits)
    torch.testing.assert_close(round_table_rows(once, bits), once)
    assert not once[7].any()
    assert len(once[0].div(once[0].abs().min()).round(decimals=3).unique()) <= 2**bits
