"""Errors of PyTorch reach the user as sentences with the line of the user's code."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from recprune_export import compress
from recprune_export.channels import walk
from recprune_export.channels.walk import RULES
from recprune_export.errors import CaptureError, ExportError, ModelError, UsageError
from recprune_export.onnx._translate import refuse_foreign_operators
from recprune_export.program.capture import capture
from recprune_export.program.failures import explain_failures
from recprune_export.program.output_selection import select_outputs


def test_the_line_of_the_user_is_named() -> None:
    def user_code() -> None:
        torch.zeros(2) @ torch.zeros(3)

    sentence = r"The work fails at .*test_failures.py, line \d+ \(RuntimeError.*\): stop."
    with pytest.raises(ModelError, match=sentence), explain_failures("The work", ModelError, "stop"):
        user_code()


@pytest.mark.parametrize(
    "error", [UsageError("a sentence"), KeyboardInterrupt(), OSError(28, "No space left on device"), MemoryError()]
)
def test_errors_that_have_their_own_sentence_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, explain_failures("The work", ModelError, "stop"):
        raise error
    assert raised.value is error


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.top = nn.Embedding(50, 8), nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, ids: Tensor) -> Tensor:
        return self.top(torch.tanh(self.table(ids))).squeeze(1)


def test_a_rule_that_fails_freezes_what_it_reads_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise IndexError("tuple index out of range")

    monkeypatch.setattr(walk, "RULES", {**RULES, torch.ops.aten.tanh.default: fail})
    analysis = capture(Net(), (torch.arange(6),)).analysis
    assert [group.name for group in analysis.groups] == ["top.0.weight:0"]
    assert any("the rule of aten.tanh fails on it (IndexError)" in axis.reason.text for axis in analysis.frozen)


def test_a_size_by_values_is_refused_with_the_line() -> None:
    class Selects(Net):
        def forward(self, ids: Tensor) -> Tensor:
            rows = (ids > 3).nonzero().squeeze(1)
            return super().forward(ids).index_fill(0, rows, 0.0)

    with pytest.raises(CaptureError, match=r"aten.nonzero at .*test_failures.py.*depends on the values"):
        capture(Selects(), (torch.arange(8),))


@torch.library.custom_op("recprune_tests::mask_tail", mutates_args=())
def mask_tail(x: Tensor, lengths: Tensor) -> Tensor:
    return x * (torch.arange(x.shape[1]) < lengths[:, None]).unsqueeze(-1)


@mask_tail.register_fake
def _(x: Tensor, lengths: Tensor) -> Tensor:
    return torch.empty_like(x)


class Foreign(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.other = nn.Embedding(50, 8), nn.Embedding(40, 8)
        self.top = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, history: Tensor, lengths: Tensor, item: Tensor) -> Tensor:
        x = mask_tail(self.table(history), lengths).sum(1)
        return self.top(torch.cat([x, self.other(item)], 1)).squeeze(1)


REQUEST = (torch.randint(0, 50, (8, 5)), torch.randint(1, 6, (8,)), torch.arange(8))


def test_an_operator_of_another_library_freezes_what_it_reads_and_nothing_else() -> None:
    analysis = capture(Foreign(), REQUEST).analysis
    assert {group.name for group in analysis.groups} == {"other.weight:1", "top.0.weight:0"}
    assert any(
        f.tensor == "table.weight" and "recprune_tests.mask_tail has no rule" in f.reason.text for f in analysis.frozen
    )


def test_an_operator_without_an_onnx_form_is_refused_before_the_work(tmp_path) -> None:
    with pytest.raises(ExportError, match=r"recprune_tests::mask_tail at .*test_failures.py"):
        compress(Foreign(), REQUEST, tmp_path / "b")


class Beside(Foreign):
    """The operator feeds an answer beside the scores."""

    def forward(self, history: Tensor, lengths: Tensor, item: Tensor) -> dict[str, Tensor]:
        beside = mask_tail(self.table(history), lengths).sum(1)
        other = self.other(item)
        return {"scores": self.top(torch.cat([other, other], 1)).squeeze(1), "beside": beside, "vector": other}


def test_outputs_without_the_operator_of_another_library_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match="leave out the outputs that it computes with --outputs scores,vector, or replace it"
    ):
        compress(Beside(), REQUEST, tmp_path / "b")
    with pytest.raises(ExportError, match="no ONNX equivalent: replace it"):
        compress(Foreign(), REQUEST, tmp_path / "b")
    refuse_foreign_operators(select_outputs(capture(Beside(), REQUEST), ["scores", "vector"]))


class WithoutPadding(nn.Module):
    """Scores of all items but those of a constant mask, in the manner of RePlay."""

    def __init__(self, left_out: tuple[int, ...]) -> None:
        super().__init__()
        self.table, self.left_out = nn.Embedding(50, 8), left_out

    def forward(self, ids: Tensor) -> Tensor:
        kept = torch.ones(50, dtype=torch.bool)
        for item in self.left_out:
            kept[item] = False
        return nn.functional.linear(self.table(ids), self.table.weight[kept])


@pytest.mark.parametrize("left_out", [(), (0,), (3, 49)])
def test_a_size_by_a_constant_mask_is_a_number(left_out: tuple[int, ...]) -> None:
    module = WithoutPadding(left_out).eval()
    program = capture(module, (torch.arange(8),))
    assert program.signature.outputs[0].shape == ("batch", 50 - len(left_out))
    torch.testing.assert_close(program({"ids": torch.arange(5)})["output"], module(torch.arange(5)))
