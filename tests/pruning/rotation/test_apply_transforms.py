"""A long table is rotated, cut and proved in chunks of rows."""

import pytest
import torch
from torch import Tensor, nn

from recprune_export.errors import PruningError
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.pruning import Transform, apply_plan, apply_transforms, check_soundness, find_rotatable_groups
from tests.largest_allocation import LargestAllocation
from tests.properties import half_plan

ROWS, DIM = 100_000, 16


class LongTable(nn.Module):
    """A long table that is indexed or looked up, and a short one in inner products with it."""

    def __init__(self) -> None:
        super().__init__()
        self.long, self.short = nn.Embedding(ROWS, DIM), nn.Embedding(50, DIM)
        self.indexed, self.layer = nn.Parameter(torch.randn(ROWS, DIM)), nn.Linear(DIM, 1)

    def forward(self, ids: Tensor) -> Tensor:
        product = (self.long(ids) * self.short(ids % 50)).sum(1)
        return product + self.layer(self.indexed[ids]).squeeze(1)  # type: ignore[no-any-return]


def test_tables_are_rotated_cut_and_proved_without_another_copy() -> None:
    torch.manual_seed(0)
    program = capture(LongTable(), (torch.tensor([0, 1, 2]),))
    rotatable = find_rotatable_groups(program).rotatable
    group = next(name for name, r in rotatable.items() if ("long.weight", 1) in r.sides)
    matrix = torch.linalg.qr(torch.randn(DIM, DIM, dtype=torch.float64)).Q
    table = program.parameters()["long.weight"]
    with LargestAllocation() as largest:
        rotated = apply_transforms(program, rotatable, {group: Transform(matrix)})
        plan = half_plan(rotated.analysis)
        pruned = apply_plan(rotated, plan)
        check_soundness(rotated, plan, pruned)
    assert largest.bytes <= table.nbytes
    expected = (table.detach().double() @ matrix).float()
    torch.testing.assert_close(rotated.parameters()["long.weight"].detach(), expected, rtol=0.0, atol=1e-6)
    assert rotated.parameters()["indexed"] is program.parameters()["indexed"]
    assert all(
        p.data_ptr() != q.data_ptr() for p in pruned.parameters().values() for q in program.parameters().values()
    )


class Magnifier(nn.Module):
    """Magnifies differences, and so the rounding of weights, as the exponential of a sum of logarithms does."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.table, self.layer, self.factor = nn.Embedding(50, DIM), nn.Linear(DIM, 8), factor

    def forward(self, ids: Tensor) -> Tensor:
        return torch.sin(self.factor * self.layer(self.table(ids))).sum(1)


ORTHOGONAL = torch.linalg.qr(torch.randn(DIM, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q


class NoInverse(Transform):
    """A transform of one side alone."""

    def matrix_for_side(self, side: int) -> Tensor:
        return self.matrix if side > 0 else torch.eye(DIM, dtype=torch.float64)


def rotate(factor: float, transform: Transform) -> Program:
    torch.manual_seed(0)
    program = capture(Magnifier(factor), (torch.arange(5),))
    rotatable = find_rotatable_groups(program).rotatable
    (group,) = (name for name, found in rotatable.items() if ("table.weight", 1) in found.sides)
    return apply_transforms(program, rotatable, {group: transform})


def test_rounding_that_a_model_magnifies_is_no_fault_of_the_analysis() -> None:
    rotated = rotate(300.0, Transform(ORTHOGONAL))
    model = Magnifier(300.0)
    model.load_state_dict({name: p.detach() for name, p in rotated.parameters().items()})
    torch.manual_seed(0)
    original = Magnifier(300.0)
    ids = torch.arange(50)
    difference = float((model.double()(ids) - original.double()(ids)).detach().abs().max())
    assert difference > 1e-5  # of answers near 1: by the fixed limit it would be refused


def test_a_model_that_magnifies_rounding_too_much_is_refused_for_that_reason() -> None:
    with pytest.raises(PruningError, match="amplifies small differences"):
        rotate(3e5, Transform(ORTHOGONAL))


def test_a_transform_that_changes_the_answers_is_still_a_fault() -> None:
    with pytest.raises(PruningError, match="bug in the analysis"):
        rotate(1.0, NoInverse(ORTHOGONAL))
