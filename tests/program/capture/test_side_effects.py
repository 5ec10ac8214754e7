"""Models that write to their state, draw random numbers, or normalize by the request."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recprune_export.errors import CaptureError
from recprune_export.program.capture import capture
from recprune_export.program.capture._capture import program_from_exported
from recprune_export.program.program import Program

IDS = (torch.arange(8),)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 8)
        self.top = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1))
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))

    def score(self, x: Tensor) -> Tensor:
        return self.top(x).squeeze(1)


class Dropout(Base):
    def forward(self, ids: Tensor) -> Tensor:
        return self.score(F.dropout(self.table(ids), 0.3))


class Noise(Base):
    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        return self.score(x + torch.randn_like(x))


class Permutation(Base):
    def forward(self, ids: Tensor) -> Tensor:
        return self.score(self.table(ids)[:, torch.randperm(8)])


class BatchStatistics(Base):
    def forward(self, ids: Tensor) -> Tensor:
        return self.score(F.batch_norm(self.table(ids), None, None, training=True))


class ReadState(Base):
    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return self.score(x - self.mean)


class CountIntoMean(Base):
    """A counter that no answer reads itself, but the state that it is written to."""

    def forward(self, ids: Tensor) -> Tensor:
        self.count.add_(1)
        self.mean.copy_(self.count.expand(8))
        return self.score(self.table(ids) - self.mean)


class Counter(Base):
    def forward(self, ids: Tensor) -> Tensor:
        self.count += 1
        return self.score(self.table(ids))


class RunningMean(Base):
    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        self.mean = self.mean * 0.9 + x.detach().mean(0) * 0.1
        return self.score(x)


class ZeroPadding(Base):
    def forward(self, ids: Tensor) -> Tensor:
        with torch.no_grad():
            self.table.weight[0].fill_(0)
        return self.score(self.table(ids))


class ZeroPaddingData(Base):
    def forward(self, ids: Tensor) -> Tensor:
        self.table.weight.data[0] = 0
        return self.score(self.table(ids))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Dropout, "aten.dropout.*training=self.training"),
        (Noise, "aten.randn_like.*if self.training"),
        (Permutation, "aten.randperm"),
        (BatchStatistics, "normalizes by the mean of the request"),
        (ReadState, "changes 'mean'.*outputs depend on it"),
        (CountIntoMean, "changes 'count'.*outputs depend on it"),
    ],
)
def test_what_answers_no_request_alike_is_refused_with_the_line(model: type[Base], reason: str) -> None:
    with pytest.raises(CaptureError, match=rf"{reason}") as error:
        capture(model(), IDS)
    assert __file__ in str(error.value)
    assert ", line " in str(error.value)


@pytest.mark.parametrize(
    ("model", "note"),
    [
        (Counter, "'count'.*no output depends on it"),
        (RunningMean, "'mean'.*no output depends on it"),
        (ZeroPadding, "'table.weight'.*always with the same value"),
        (ZeroPaddingData, "'table.weight'.*always with the same value"),
    ],
)
def test_writes_that_change_no_answer_are_left_out(model: type[Base], note: str) -> None:
    module = model().eval()
    program = capture(module, IDS)
    assert len(program.notes) == 1
    assert re.search(note, program.notes[0])
    assert torch.allclose(answer(program), module(*IDS), atol=1e-6)
    assert any(group.name == "table.weight:1" for group in program.analysis.groups)


def answer(program: Program) -> Tensor:
    return program({program.signature.inputs[0].name: IDS[0]})[program.signature.outputs[0].name]


def export(module: nn.Module) -> Any:
    return torch.export.export(module, IDS, dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))


def test_a_program_exported_in_train_mode_is_switched_to_inference() -> None:
    class Trained(Base):
        def forward(self, ids: Tensor) -> Tensor:
            return self.score(F.dropout(self.table(ids), 0.3, self.training))

    module = Trained()
    exported = export(module.train())
    before = str(exported.graph)
    program = program_from_exported(exported)
    assert str(exported.graph) == before
    assert len(program.notes) == 1
    assert "batch-norm and dropout" in program.notes[0]
    assert torch.allclose(answer(program), module.eval()(*IDS), atol=1e-6)


def test_writing_once_leaves_the_tensors_of_the_user() -> None:
    module = ZeroPadding().eval()
    exported = export(module)
    with torch.no_grad():
        weight = exported.state_dict["table.weight"]
        weight[0].fill_(1.0)
    program = program_from_exported(exported)
    assert float(weight[0, 0]) == 1.0
    assert float(answer(program)[0]) == pytest.approx(float(module(*IDS)[0]), abs=1e-6)
