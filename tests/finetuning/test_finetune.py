import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from recprune_export.data import ArrayData, Ragged, Rows
from recprune_export.finetuning import (
    FineTuningConfig,
    LabeledRows,
    NonZeroTarget,
    SampledRequests,
    Schedule,
    count_parameters,
    finetune,
    make_objective,
    objective,
)
from recprune_export.finetuning._finetune import _linear_decay
from recprune_export.finetuning.task import _truncate_histories
from recprune_export.program import Program
from recprune_export.program.capture import _capture, capture
from recprune_export.training import FitResult

RECIPE = FineTuningConfig(epochs=4, learning_rate=1e-2, batch_size=64)
TABLES = frozenset({"table.weight"})


class Scorer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 6)
        self.mlp = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))

    def forward(self, user: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"click": self.mlp(self.table(user)).squeeze(1)}


def program(seed: int) -> Program:
    torch.manual_seed(seed)
    return capture(Scorer(), (torch.tensor([0, 1, 2]),))


def rows(count: int = 600) -> ArrayData:
    rng = np.random.default_rng(0)
    user = rng.integers(20, size=count)
    labels = (rng.random(count) < np.where(user % 2, 0.9, 0.1)).astype(np.float32)
    parts = [Rows({"user": user[i::3]}, {"click": labels[i::3]}) for i in range(3)]
    return ArrayData(*parts)


def tune(gradual: bool = True, epochs: int = 4) -> tuple[Program, float]:
    student, teacher = program(1), program(2)
    task = LabeledRows(rows(), make_objective(student, ("click",)), RECIPE)
    target = NonZeroTarget(tables=40, rest=60)
    finetune(student, teacher, task, TABLES, target, Schedule(epochs, 1e-2, gradual, seed=0))
    return student, task.validate(student)


@pytest.mark.parametrize("gradual", [True, False])
@pytest.mark.parametrize("epochs", [0, 1, 4])
def test_the_zeros_are_there_and_exact(gradual: bool, epochs: int) -> None:
    student, _ = tune(gradual, epochs)
    nonzero = {name: int(p.count_nonzero()) for name, p in student.parameters().items()}
    assert nonzero["table.weight"] <= 40
    assert sum(count for name, count in nonzero.items() if name != "table.weight") <= 60
    assert nonzero["table.weight"] >= 39  # no more than was asked for


def test_tuning_learns_from_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objective, "TEACHER_SHARE", 0.0)  # the teacher of this test knows nothing
    before, after = tune(epochs=0)[1], tune(epochs=12)[1]
    assert before < 0.85 < after


def test_a_last_batch_of_one_row_leaves_the_variances_of_a_batch_norm_finite() -> None:
    data = rows(3 * (RECIPE.batch_size + 1))
    assert len(data.train) % RECIPE.batch_size == 1
    student, teacher = program(1), program(2)
    task = LabeledRows(data, make_objective(student, ("click",)), RECIPE)
    finetune(student, teacher, task, TABLES, NonZeroTarget(10**9, 10**9), Schedule(1, 1e-2, gradual=False, seed=0))
    assert all(bool(value.isfinite().all()) for value in student.module.state_dict().values())
    assert math.isfinite(task.validate(student))


def test_a_model_that_answers_nan_has_no_metric() -> None:
    student = program(1)
    student.parameters()["table.weight"].data[3] = math.nan
    task = LabeledRows(rows(), make_objective(student, ("click",)), RECIPE)
    assert math.isnan(task.validate(student))


def test_the_same_seed_gives_the_same_weights() -> None:
    one, two = (tune()[0].parameters() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_tuning_that_does_harm_is_undone() -> None:
    """The student is the teacher but for its zeros; steps as large as these only lead away from it."""
    student, teacher, untuned = program(1), program(1), program(1)
    task = SampledRequests(teacher, make_objective(student, ()), RECIPE)
    target = NonZeroTarget(tables=100, rest=60)
    fitted = finetune(student, teacher, task, TABLES, target, Schedule(2, 10.0, True, seed=0))
    finetune(untuned, teacher, task, TABLES, target, Schedule(0, 10.0, True, seed=0))
    assert fitted is not None
    assert fitted.best == -1
    assert fitted.metric > max(epoch.metric for epoch in fitted.epochs)
    assert FitResult.from_dict(fitted.to_dict()) == fitted
    wanted = untuned.module.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in student.module.state_dict().items())


def test_the_teacher_is_left_as_it_is() -> None:
    student, teacher = program(1), program(2)
    before = {name: p.detach().clone() for name, p in teacher.parameters().items()}
    task = LabeledRows(rows(), make_objective(student, ("click",)), RECIPE)
    finetune(student, teacher, task, TABLES, NonZeroTarget(120, 200), Schedule(1, 1e-2, True, 0))
    assert all(torch.equal(before[name], p) for name, p in teacher.parameters().items())


def test_without_rows_the_teacher_alone_is_followed() -> None:
    student, teacher = program(1), program(2)
    task = SampledRequests(teacher, make_objective(teacher, ()), RECIPE)
    before = task.validate(student)
    finetune(student, teacher, task, TABLES, NonZeroTarget(120, 200), Schedule(1, 1e-2, False, 0))
    assert task.validate(student) > before
    assert task.test(lambda request: {}) == {}


def test_a_history_is_cut_before_an_item_that_follows() -> None:
    histories = Ragged(np.arange(1, 31), np.array([0, 2, 10, 30]))
    for seed in range(20):
        request, labels = _truncate_histories(histories, 40, np.random.default_rng(seed))
        for user, target in enumerate(labels["next_item"].tolist()):
            beginning = [i for i in request["history"][user].tolist() if i]
            whole = histories[user].tolist()
            assert beginning == whole[: len(beginning)]
            assert beginning
            assert target == (whole[len(beginning)] if len(beginning) < len(whole) else 0)


def test_the_learning_rate_falls_to_zero() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, rates = _linear_decay(optimizer, 100), []
    for _ in range(101):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates[0] == 1.0
    assert all(a > b for a, b in itertools.pairwise(rates))
    assert rates[-1] == 0.0


def test_a_table_in_half_precision_stays_while_the_rest_is_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        _capture, "describe_half_precision", lambda _: None
    )  # as programs of former releases were saved

    class Coarse(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = torch.nn.Embedding(30, 4).half(), torch.nn.Linear(4, 1)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.table(ids).float())  # type: ignore[no-any-return]

    torch.manual_seed(0)
    teacher = capture(Coarse(), (torch.tensor([1, 2, 3]),))
    student = teacher.with_copied_parameters()
    with torch.no_grad():
        student.parameters()["head.weight"].mul_(0.5)
    task = SampledRequests(teacher, make_objective(teacher, ()), FineTuningConfig(1, 1e-2, 32))
    before = task.validate(student)
    target = NonZeroTarget(*count_parameters(student, frozenset({"table.weight"})))
    finetune(student, teacher, task, frozenset({"table.weight"}), target, Schedule(1, 1e-2, gradual=True, seed=0))
    assert task.validate(student) > before
    assert torch.equal(student.parameters()["table.weight"], teacher.parameters()["table.weight"])
