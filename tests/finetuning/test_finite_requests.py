"""Requests that are drawn at random are such as the model can answer."""

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from recprune_export.errors import ModelError
from recprune_export.finetuning import FineTuningConfig, SampledRequests, finite_requests, make_objective
from recprune_export.finetuning.finite_requests import find_finite_rows
from recprune_export.program.capture import capture


class Attends(nn.Module):
    """Softmax over the items of a history; a history that is masked as a whole has no share to give."""

    def __init__(self, *, mended: bool) -> None:
        super().__init__()
        self.items, self.head, self.mended = nn.Embedding(20, 4), nn.Linear(4, 1), mended

    def forward(self, history: Tensor, mask: Tensor) -> Tensor:
        x = self.items(history)
        shares = x.sum(-1).masked_fill(~mask, float("-inf")).softmax(1)
        if self.mended:
            shares = torch.where(mask.any(1, keepdim=True), shares, 0.0)
        return torch.sigmoid(self.head((shares.unsqueeze(-1) * x).sum(1))).squeeze(1)


def task_of(module: nn.Module, *example: Tensor) -> SampledRequests:
    torch.manual_seed(0)
    program = capture(module.eval(), example)
    return SampledRequests(program, make_objective(program, ()), FineTuningConfig(1, 1e-3, 64))


@pytest.mark.parametrize("mended", [False, True])
def test_rows_of_which_nan_comes_are_not_drawn(mended: bool) -> None:
    task = task_of(Attends(mended=mended), torch.ones(3, 2, dtype=torch.int64), torch.ones(3, 2, dtype=torch.bool))
    torch.testing.assert_close(
        find_finite_rows(
            task.teacher, (torch.ones(4, 2).long(), torch.tensor([[1, 1], [0, 0], [1, 0], [0, 0]]).bool())
        ),
        torch.tensor([True, False, True, False]),
    )
    request, _ = next(iter(task.training_batches(0)))
    assert len(request["mask"]) == 64
    assert request["mask"].any(1).all()
    assert not request["mask"].all()
    slope = task.objective.probe(task.teacher(request), torch.Generator().manual_seed(0))
    gradients = torch.autograd.grad(slope, list(task.teacher.parameters().values()))
    assert all(gradient.isfinite().all() for gradient in gradients)


class Logarithm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(-x.square().exp()).log()


def test_a_model_that_answers_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Logarithm()
    with torch.no_grad():
        module.head.weight.fill_(1.0)
        module.head.bias.zero_()
    task = task_of(module, torch.ones(3, 3))
    with pytest.raises(ModelError, match="NaN from each of 7 random requests"):
        task.requests(7, seed=0)


class LogarithmOfSome(nn.Module):
    """A step on the way is NaN for nearly all rows; no answer is."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(30, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.where(x > 0, x.log(), 0.0))


def test_where_each_row_has_a_nan_on_the_way_the_answers_decide() -> None:
    request = task_of(LogarithmOfSome(), torch.randn(4, 30)).requests(16, 0)
    assert len(np.unique(request["x"][:, 0])) == 16


def test_rows_are_looked_at_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    task = task_of(Attends(mended=True), torch.ones(3, 2, dtype=torch.int64), torch.ones(3, 2, dtype=torch.bool))
    tensors = (torch.ones(1000, 2).long(), torch.arange(2000).reshape(1000, 2) % 3 == 0)
    monkeypatch.setattr(finite_requests, "_choose_chunk_rows", lambda program: 256)
    most: list[int] = []

    def run_node(self: fx.Interpreter, n: fx.Node) -> object:
        value = own(self, n)
        most.append(len(value) if isinstance(value, Tensor) and value.ndim == 3 and n.op == "call_function" else 0)
        return value

    own = fx.Interpreter.run_node
    monkeypatch.setattr(fx.Interpreter, "run_node", run_node)
    found = find_finite_rows(task.teacher, tensors)
    torch.testing.assert_close(found, tensors[1].any(1))
    assert 0 < max(most) <= 256


def test_the_values_of_a_piece_are_small() -> None:
    class Scores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(2, 20_000)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(x)  # type: ignore[no-any-return]

    program = capture(Scores().eval(), (torch.zeros(2, 2),))
    assert finite_requests._choose_chunk_rows(program) == 2**24 // 20_000
