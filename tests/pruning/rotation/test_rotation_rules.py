"""A table can be rotated through operators that move values, or are linear, along axes other than its dimension."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from recprune_export.program.capture._capture import capture
from recprune_export.program.program import Program
from recprune_export.pruning.rotation._apply_transforms import apply_transforms
from recprune_export.pruning.rotation.eligibility import find_rotatable_groups
from tests.properties import no_zeros
from tests.pruning.rotation.test_eligibility import random_transform

F = torch.nn.functional
aten = torch.ops.aten
LENGTH, WIDTH = 5, 6
EYE = torch.eye(LENGTH)


class History(nn.Module):
    """The values of a table over time, B×L×D; the operator; a layer over D and one over all other axes."""

    def __init__(self, operator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.operator, self.table, self.linear = operator, nn.Embedding(20, WIDTH), nn.Linear(WIDTH, 3)
        rest = self.linear(operator(torch.zeros(2, LENGTH, WIDTH))).flatten(1).shape[1]
        self.head = nn.Linear(rest, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.linear(self.operator(self.table(ids))).relu().flatten(1))  # type: ignore[no-any-return]


def captured(operator: Callable[[Tensor], Tensor]) -> Program:
    return capture(no_zeros(History(operator)), (torch.arange(2 * LENGTH).reshape(2, LENGTH),))


LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "pad over time": lambda x: F.pad(x, (0, 0, 2, 1)),
    "pad over time with copies": lambda x: F.pad(x.transpose(1, 2), (1, 2), mode="replicate").transpose(1, 2),
    "pad over time, reflected": lambda x: F.pad(x.transpose(1, 2), (1, 2), mode="reflect").transpose(1, 2),
    "cut over time": lambda x: F.pad(x, (0, 0, -1, 0)),
    "constant_pad_nd": lambda x: aten.constant_pad_nd.default(x, [0, 0, 1, 0]),
    "roll over time": lambda x: x.roll(1, 1),
    "flip over time": lambda x: x.flip(1),
    "windows": lambda x: x.unfold(1, 3, 1).transpose(2, 3).flatten(1, 2),
    "mean of neighbours": lambda x: F.avg_pool1d(x.transpose(1, 2), 2).transpose(1, 2),
    "mean over time": lambda x: F.adaptive_avg_pool1d(x.transpose(1, 2), 1).transpose(1, 2),
    "pairs of a diagonal": lambda x: (x.unsqueeze(1) + x.unsqueeze(2)).diagonal(0, 1, 2).transpose(1, 2),
    "lower triangle": lambda x: (x.transpose(1, 2).unsqueeze(-1) * EYE.add(1.0)).tril().sum(-1).transpose(1, 2),
    "spectrum over time": lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=1)[:, :2], n=LENGTH, dim=1),
    "degrees": lambda x: torch.deg2rad(x),
    "interpolation": lambda x: torch.lerp(x, x.flip(1), 0.3),
    "overwritten steps": lambda x: torch.index_put(x.transpose(0, 1), (torch.tensor([0]),), x[:, 3]).transpose(0, 1),
    "added to some steps": lambda x: x.index_add(1, torch.tensor([0, 2]), x[:, 3:]),
    "written over some steps": lambda x: x.scatter(1, torch.tensor([[[0], [2]]]).expand(len(x), -1, WIDTH), x[:, 3:]),
    "size of the batch": lambda x: x.reshape(x.shape[0], LENGTH, WIDTH) * 2,
    "ones": lambda x: x * torch.ones_like(x),
}


@pytest.mark.parametrize("name", LINEAR)
def test_a_rotation_through_a_linear_operator_changes_no_answer(name: str) -> None:
    program = captured(LINEAR[name])
    rotatable = find_rotatable_groups(program).rotatable
    (group,) = [n for n, r in rotatable.items() if ("table.weight", 1) in r.sides]
    transform = random_transform(WIDTH, rotatable[group].orthogonal)
    after = apply_transforms(program, rotatable, {group: transform})  # it compares the answers in float64
    assert not torch.equal(after.parameters()["table.weight"], program.parameters()["table.weight"])
    ids = torch.randint(20, (7, LENGTH), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(after.module(ids)[0], program.module(ids)[0], rtol=1e-4, atol=1e-4)


NOT_LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "pad with ones": lambda x: F.pad(x, (0, 0, 1, 0), value=1.0),
    "maximum of neighbours": lambda x: F.max_pool1d(x.transpose(1, 2), 2).transpose(1, 2),
    "floor": lambda x: x.floor(),
    "sorted": lambda x: x.sort(1).values,
    "interpolation by a constant": lambda x: torch.lerp(x, torch.ones_like(x), 0.3),
}


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_no_table_is_rotated_through_a_nonlinear_operator(name: str) -> None:
    rotatable = find_rotatable_groups(captured(NOT_LINEAR[name])).rotatable
    assert all(("table.weight", 1) not in r.sides for r in rotatable.values())


class Normalized(nn.Module):
    """The values of a table after RMSNorm, with or without gains."""

    def __init__(self, gains: bool) -> None:
        super().__init__()
        self.table, self.linear = nn.Embedding(20, WIDTH), nn.Linear(WIDTH, 3)
        self.norm = nn.RMSNorm(WIDTH, elementwise_affine=gains)

    def forward(self, ids: Tensor) -> Tensor:
        return self.linear(self.norm(self.table(ids)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("gains", [False, True])
def test_rms_norm_without_gains_allows_orthogonal_rotations(gains: bool) -> None:
    program = capture(no_zeros(Normalized(gains)), (torch.tensor([1, 2]),))
    rotatable = find_rotatable_groups(program).rotatable
    names = [n for n, r in rotatable.items() if ("table.weight", 1) in r.sides]
    assert len(names) == (0 if gains else 1)
    for name in names:
        assert rotatable[name].orthogonal
        apply_transforms(program, rotatable, {name: random_transform(WIDTH, orthogonal=True)})
