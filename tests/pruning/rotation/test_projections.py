"""A table of which nothing can go as it is ends behind a matrix where it is looked up, and is pruned there."""

import pytest
import torch
from torch import Tensor, nn

from recprune_export.errors import PruningError
from recprune_export.pipeline import make_sampled_task, plan_pruning, rotate_channels
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.pruning import apply_plan, check_soundness, insert_projections, plan_projections
from recprune_export.settings import Settings
from tests.properties import no_zeros

ROWS, DIM = 200, 8


class Stuck(nn.Module):
    """Two tables whose rows some operator has to see as a whole."""

    def __init__(self, how: str, rows: int = ROWS) -> None:
        super().__init__()
        self.how = how
        self.user, self.item = nn.Embedding(rows, DIM), nn.Embedding(rows, DIM)

    def forward(self, user: Tensor, item: Tensor) -> tuple[Tensor, ...]:
        u, v = self.user(user), self.item(item)
        if self.how == "sorted":
            return ((u.sort(-1).values * v).sum(-1),)
        if self.how == "transformed":
            return (torch.fft.irfft(torch.fft.rfft(u) * torch.fft.rfft(v), n=DIM).sum(-1),)
        return (u * v).sum(-1), u, v


def program_of(how: str, rows: int = ROWS) -> Program:
    return capture(no_zeros(Stuck(how, rows)), (torch.arange(4), torch.arange(4)))


@pytest.mark.parametrize("how", ["sorted", "transformed", "returned"])
def test_tables_that_are_read_as_a_whole_are_narrowed_behind_a_matrix(how: str) -> None:
    program = program_of(how)
    assert not any(group.kind == "embedding" for group in program.analysis.groups)
    settings = Settings(sparsity=0.5, structured_fraction=1.0)
    plan = plan_pruning(program, settings.pruning, make_sampled_task(program, settings.finetuning)).plan
    loose = rotate_channels(program, plan)
    pruned = apply_plan(loose, plan)
    soundness = check_soundness(loose, plan, pruned)
    assert soundness.error <= soundness.tolerance
    for table in ("user.weight", "item.weight"):
        rows, dim = pruned.parameters()[table].shape
        assert rows == ROWS
        assert dim < DIM


@pytest.mark.parametrize("how", ["sorted", "transformed", "returned"])
def test_the_matrices_change_no_answer(how: str) -> None:
    program = program_of(how)
    loosening = plan_projections(program)
    assert {cut.width for cut in loosening.projections} == {DIM}
    ids = torch.arange(9)
    for one, other in zip(
        program.module(ids, ids), insert_projections(program, loosening).module(ids, ids), strict=True
    ):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


def test_a_table_no_larger_than_its_matrix_stays_and_is_refused_with_the_reason() -> None:
    program = program_of("sorted", rows=DIM)
    assert not plan_projections(program)
    settings = Settings(sparsity=0.5)
    with pytest.raises(PruningError, match="it is sorted"):
        plan_pruning(program, settings.pruning, make_sampled_task(program, settings.finetuning))
