"""A long table is rotated, cut and proved in chunks of rows."""

import torch
from torch import Tensor, nn

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
