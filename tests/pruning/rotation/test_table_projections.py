"""Spaces of their own change no answer, join what the same ids look up, and let widths differ by field."""

import pytest
import torch
from torch import Tensor, nn

from recprune_export.errors import PruningError
from recprune_export.pipeline import make_sampled_task, plan_pruning, rotate_channels
from recprune_export.program import Program, sample_request_tensors
from recprune_export.program.capture import capture
from recprune_export.pruning import (
    Plan,
    apply_plan,
    check_soundness,
    find_per_table_projections,
    insert_per_table_projections,
)
from recprune_export.pruning.rotation import table_projections as module
from recprune_export.pruning.rotation.table_projections import PerTableProjection
from recprune_export.recommenders import RECOMMENDERS
from recprune_export.settings import Settings
from tests.properties import no_zeros
from tests.recommenders.test_recommenders import make, spec_of


class Machine(nn.Module):
    """A DeepFM: weights and vectors of a field are looked up by the same ids, each in code of its own."""

    def __init__(self, dim: int = 6) -> None:
        super().__init__()
        self.weights = nn.ModuleList([nn.Embedding(n, 1) for n in (200, 100, 5)])
        self.vectors = nn.ModuleList([nn.Embedding(n, dim) for n in (200, 100, 5)])
        self.mlp = nn.Sequential(nn.Linear(3 * dim, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """[B, 3] -> [B]."""
        linear = torch.cat([table(ids[:, i].long()) for i, table in enumerate(self.weights)], 1).sum(1)
        v = torch.stack([table(ids[:, i].long()) for i, table in enumerate(self.vectors)], 1)
        return linear + 0.5 * (v.sum(1).square() - v.square().sum(1)).sum(1) + self.mlp(v.flatten(1)).squeeze(1)


class Repeated(nn.Module):
    """One table that two fields share, and one that its own ids read alone."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.own = nn.Embedding(300, 4), nn.Embedding(300, 4, padding_idx=0)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, 2] -> [B]."""
        a, b = self.shared(ids[:, 0]), self.shared(ids[:, 1])
        return (a * b).sum(1) + (a * self.own(ids[:, 0])).sum(1)


def machine(dim: int = 6) -> Program:
    return capture(no_zeros(Machine(dim)), (torch.stack([torch.arange(4)] * 3, 1),))


def spaced(program: Program) -> tuple[tuple[PerTableProjection, ...], Program]:
    found = find_per_table_projections(program)
    return found, insert_per_table_projections(program, found)


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_spaces_change_no_answer_of_a_recommender(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_ROWS_PER_DIMENSION", 0)  # the tables of tests are small
    program = capture(make(name), (spec_of(name).example_request(),))
    found, after = spaced(program)
    assert found or name == "sasrec"  # whose items are read as scores as well
    tensors = sample_request_tensors(program.signature, 9)
    program.set_training(False)
    after.set_training(False)
    for one, other in zip(program.module(*tensors), after.module(*tensors), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-5, atol=1e-6)


def test_tables_of_the_same_ids_become_one() -> None:
    program = machine()
    found, after = spaced(program)
    assert [len(space.lookups) for space in found] == [2, 2]  # five rows are too few
    lookups = [n for n in after.module.graph.nodes if n.target is torch.ops.aten.embedding.default]
    assert len(lookups) == 4
    widths = sorted(tuple(p.shape) for name, p in after.parameters().items() if name in after.analysis.tables)
    assert (200, 7) in widths
    assert (100, 7) in widths
    ids = torch.stack([torch.randint(n, (40,)) for n in (200, 100, 5)], 1)
    torch.testing.assert_close(after.module(ids)[0], program.module(ids)[0], rtol=1e-5, atol=1e-5)


def test_a_table_that_is_read_twice_stays() -> None:
    program = capture(no_zeros(Repeated()), (torch.tensor([[1, 2], [3, 4]]),))
    found, after = spaced(program)
    assert [space.lookups for space in found] == [("embedding_2",)]
    ids = torch.randint(300, (30, 2))
    torch.testing.assert_close(after.module(ids)[0], program.module(ids)[0], rtol=1e-5, atol=1e-5)


def test_a_second_time_nothing_is_left_to_do() -> None:
    _, after = spaced(machine())
    assert find_per_table_projections(after) == ()


def test_a_space_of_another_model_is_refused() -> None:
    with pytest.raises(PruningError, match="'elsewhere'"):
        insert_per_table_projections(machine(), (PerTableProjection(("elsewhere",)),))


def test_a_plan_gives_each_field_its_width_is_kept_as_json_and_is_sound() -> None:
    torch.manual_seed(0)
    model = Machine(dim=8)
    with torch.no_grad():  # what matters of one field has rank 5, of the other rank 2
        for table, rank in zip(model.vectors[:2], (5, 2), strict=True):
            table.weight.copy_(torch.randn(len(table.weight), rank) @ torch.randn(rank, 8))
    program = capture(model, (torch.stack([torch.arange(4)] * 3, 1),))
    settings = Settings(sparsity=0.5, hidden_sparsity=0.1)
    plan = plan_pruning(program, settings.pruning, make_sampled_task(program, settings.finetuning)).plan
    assert len(plan.projection_plan.per_table_projections) == 2
    assert Plan.from_dict(plan.to_dict()) == plan
    loose = rotate_channels(program, plan)
    small = apply_plan(loose, plan)
    check_soundness(loose, plan, small)
    widths = {p.shape[0]: p.shape[1] for name, p in small.parameters().items() if name in small.analysis.tables}
    assert widths[200] > widths[100]
    again = rotate_channels(program, plan)
    other = apply_plan(again, plan)
    assert all(torch.equal(p, other.parameters()[name]) for name, p in small.parameters().items())
