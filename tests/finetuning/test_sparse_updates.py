import copy
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recprune_export.data import ArrayData, Rows
from recprune_export.finetuning import (
    FineTuningConfig,
    LabeledRows,
    NonZeroTarget,
    Schedule,
    apply_masks,
    find_table_lookups,
    finetune,
    make_objective,
    objective,
)
from recprune_export.finetuning._finetune import _make_sparse_adam
from recprune_export.finetuning.sparse_updates import ROWS_PER_ID, find_sparse_update_tables, sparse_gradients
from recprune_export.program import Program
from recprune_export.program.capture import capture

BATCH = 16
ROWS = 3 * ROWS_PER_ID * BATCH  # of the long table, whose requests have three ids
RECIPE = FineTuningConfig(epochs=1, learning_rate=1e-2, batch_size=BATCH)
TABLES = frozenset({"long.weight", "short.weight", "tied.weight"})


class Tables(nn.Module):
    """One long table looked up twice, a short one, and one that is also a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.long, self.short, self.tied = nn.Embedding(ROWS, 4), nn.Embedding(5, 4), nn.Embedding(ROWS, 4)
        self.mlp = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))

    def forward(self, user: Tensor, history: Tensor, kind: Tensor) -> Tensor:
        seen = self.long(history).mean(1) + self.long(user) + self.tied(user)
        vector = self.mlp(torch.cat([seen, self.short(kind)], 1))
        return (vector @ self.tied.weight[:7].T).sum(1)


def request(seed: int, rows: int = BATCH) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "user": rng.integers(ROWS, size=rows),
        "history": rng.integers(ROWS, size=(rows, 2)),
        "kind": rng.integers(5, size=rows),
    }


def program(seed: int = 0) -> Program:
    torch.manual_seed(seed)
    return capture(Tables(), tuple(torch.from_numpy(v) for v in request(0).values()))


def task(student: Program, batches: int = 1) -> LabeledRows:
    inputs = request(1, batches * BATCH)
    labels = (inputs["user"] % 2).astype(np.float32)
    rows = Rows(inputs, {"click": labels})
    return LabeledRows(ArrayData(rows, rows, rows), make_objective(student, ("click",)), RECIPE)


def tune(student: Program, batches: int = 1, epochs: int = 1, *, row_wise: bool = True, share: float = 0.5) -> float:
    sizes = {name: p.numel() for name, p in student.parameters().items()}
    tables = sum(size for name, size in sizes.items() if name in TABLES)
    target = NonZeroTarget(int(share * tables), sum(sizes.values()) - tables)
    on = task(student, batches)
    finetune(student, program(7), on, TABLES, target, Schedule(epochs, 1e-2, False, 0, row_wise=row_wise))
    return on.validate(student)


def test_only_long_tables_that_are_looked_up_and_nothing_else() -> None:
    assert set(find_table_lookups(program())) == {"long.weight", "short.weight"}
    assert find_sparse_update_tables(program(), BATCH) == {"long.weight"}
    assert find_sparse_update_tables(program(), BATCH + 1) == set()


def test_a_step_changes_only_rows_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    student = program()
    before = copy.deepcopy(student.parameters()["long.weight"].detach())
    hold_all = NonZeroTarget(10**9, 10**9)
    better = itertools.count()
    monkeypatch.setattr(LabeledRows, "validate", lambda *_: float(next(better)))
    finetune(student, program(7), task(student), TABLES, hold_all, Schedule(1, 1e-2, False, 0))
    changed = (student.parameters()["long.weight"] != before).any(1).nonzero().flatten().tolist()
    asked = request(1)
    assert set(changed) == {*asked["user"].tolist(), *asked["history"].flatten().tolist()}


@pytest.mark.parametrize("row_wise", [True, False])
def test_zeros_are_held_in_every_row(row_wise: bool) -> None:
    student = program()
    tune(student, batches=5, epochs=3, row_wise=row_wise)
    tables = [p for name, p in student.parameters().items() if name in TABLES]
    assert sum(int(p.count_nonzero()) for p in tables) == int(0.5 * sum(p.numel() for p in tables))


def test_holding_the_rows_of_a_batch_is_holding_all_of_them() -> None:
    student = program()
    table = student.parameters()["long.weight"]
    masks = {"long.weight": torch.rand(table.shape) < 0.5}
    apply_masks(student, masks)
    ids = torch.tensor([3, 3, 8])
    with torch.no_grad():
        table[ids] += 1.0
    table.grad = torch.sparse_coo_tensor(ids[None], torch.ones(3, 4), table.shape, check_invariants=True)
    apply_masks(student, masks, frozenset({"long.weight"}))
    assert not table[~masks["long.weight"]].any()
    assert torch.equal(table[ids].count_nonzero(1), masks["long.weight"][ids].sum(1))


def test_a_gradient_by_rows_is_the_gradient() -> None:
    student = program()
    tensors = tuple(torch.from_numpy(v) for v in request(2).values())
    names = find_sparse_update_tables(student, BATCH)
    (whole,) = torch.autograd.grad(student.module(*tensors)[0].sum(), student.parameters()["long.weight"])
    with sparse_gradients(student, names):
        (rows,) = torch.autograd.grad(student.module(*tensors)[0].sum(), student.parameters()["long.weight"])
    assert rows.is_sparse
    assert not whole.is_sparse
    torch.testing.assert_close(rows.to_dense(), whole)


def test_the_graph_afterwards_is_the_graph_before() -> None:
    student, never = program(), program()
    tune(student)
    assert student.module.code == never.module.code
    assert "sparse = True" not in student.module.code
    assert str(student.to_exported_program().graph) == str(never.to_exported_program().graph)


@pytest.mark.slow
def test_the_quality_is_that_of_plain_adam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "TEACHER_SHARE", 0.0)  # the teacher of this test knows nothing
    by_rows, plain = (tune(program(), batches=60, epochs=12, row_wise=choice, share=0.9) for choice in (True, False))
    assert min(by_rows, plain) > 0.9
    assert by_rows == pytest.approx(plain, abs=0.05)


def test_moments_that_begin_without_memory_give_the_same_steps() -> None:
    torch.manual_seed(0)
    dtypes = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    tables = [torch.nn.Parameter(torch.randn(9, 3, dtype=dtype)) for dtype in dtypes]
    others = [torch.nn.Parameter(table.detach().clone()) for table in tables]
    optimizers = [_make_sparse_adam(tables, 0.1), torch.optim.SparseAdam(others, lr=0.1)]
    for step in range(3):
        for parameters, optimizer in zip((tables, others), optimizers, strict=True):
            for parameter in parameters:
                ids = torch.tensor([step, 5, 5])
                parameter.grad = None
                torch.nn.functional.embedding(ids, parameter, sparse=True).square().sum().backward()
            optimizer.step()
    assert all(torch.equal(table, other) for table, other in zip(tables, others, strict=True))
