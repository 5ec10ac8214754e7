"""Answers beside the scores: caches, losses, classes that no graph returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from recprune_export.errors import CaptureError
from recprune_export.program.capture import capture
from recprune_export.pruning.rotation._apply_transforms import _compare


class Cache:
    def __init__(self, keys: Tensor) -> None:
        self.keys = keys


class Named(NamedTuple):
    scores: Tensor
    beside: Any


@dataclass
class Answer:
    scores: Tensor
    beside: Any


class Model(nn.Module):
    def __init__(self, answer: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.table, self.top = nn.Embedding(100, 8), nn.Linear(8, 1)
        self.answer = answer

    def forward(self, ids: Tensor) -> Any:
        hidden = self.table(ids)
        return self.answer(self.top(hidden).squeeze(1), hidden)


IDS = (torch.arange(6),)
CONTAINERS: dict[str, Callable[[Tensor, Any], Any]] = {
    "dict": lambda scores, beside: {"scores": scores, "beside": beside},
    "named tuple": Named,
    "dataclass": Answer,
    "nested": lambda scores, beside: {"scores": scores, "more": [beside, None]},
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_class_that_no_graph_returns_is_left_out_by_name(container: str) -> None:
    program = capture(Model(lambda scores, hidden: CONTAINERS[container](scores, Cache(hidden))), IDS)
    assert [output.name for output in program.signature.outputs] == ["scores"]
    assert len(program.notes) == 1
    assert "Cache" in program.notes[0]
    assert ("more.0" if container == "nested" else "beside") in program.notes[0]


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_loss_is_left_out_by_name(container: str) -> None:
    program = capture(Model(lambda scores, hidden: CONTAINERS[container](scores, hidden.square().mean())), IDS)
    assert [output.name for output in program.signature.outputs] == ["scores"]
    assert len(program.notes) == 1
    assert "one number for the whole request" in program.notes[0]


def test_the_module_keeps_its_own_answer_after_the_capture() -> None:
    model = Model(lambda scores, hidden: {"scores": scores, "cache": Cache(hidden)})
    capture(model, IDS)
    assert isinstance(model(*IDS)["cache"], Cache)


def test_a_label_that_only_the_loss_reads_is_no_input() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.top = nn.Embedding(100, 8), nn.Linear(8, 1)

        def forward(self, ids: Tensor, label: Tensor) -> dict[str, Tensor]:
            logit = self.top(self.table(ids)).squeeze(1)
            return {"loss": nn.functional.binary_cross_entropy_with_logits(logit, label), "logit": logit}

    model = WithLoss()
    program = capture(model, (torch.arange(6), torch.ones(6)))
    assert [i.name for i in program.signature.inputs] == ["ids"]
    assert [o.name for o in program.signature.outputs] == ["logit"]
    assert any("'label' is read by 'loss' alone" in note for note in program.notes)
    ids = torch.tensor([3, 99])
    assert torch.equal(program({"ids": ids})["logit"], model(ids, torch.ones(2))["logit"])


def test_an_input_that_nothing_reads_stays() -> None:
    class Ignores(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(100, 8)

        def forward(self, ids: Tensor, unused: Tensor) -> Tensor:
            return self.table(ids).sum(1)

    assert len(capture(Ignores(), (torch.arange(6), torch.ones(6))).signature.inputs) == 2


UNSERVED = {
    "loss": lambda hidden: hidden.sum(),
    "cache": Cache,
    "norms": lambda hidden: hidden.square().sum(0),
    "none": lambda hidden: None,
}


@pytest.mark.slow
@given(st.lists(st.sampled_from(["scores", *UNSERVED]), min_size=1, max_size=4), st.booleans())
def test_any_answer_gives_the_outputs_with_rows(parts: list[str], as_dict: bool) -> None:
    def answer(scores: Tensor, hidden: Tensor) -> Any:
        values = [scores, *(scores * 2 if part == "scores" else UNSERVED[part](hidden) for part in parts)]
        return {f"part{number}": value for number, value in enumerate(values)} if as_dict else tuple(values)

    model = Model(answer).eval()
    program = capture(model, IDS)
    served = [0, *(number + 1 for number, part in enumerate(parts) if part == "scores")]
    names = [output.name for output in program.signature.outputs]
    tensors = 1 + sum(part != "none" and part != "cache" for part in parts)
    if tensors > 1 or as_dict:
        assert names == [f"part{number}" if as_dict else f"output_{number}" for number in served]
    assert len(program.notes) == sum(part not in ("scores", "none") for part in parts)
    expected = model(*IDS)
    for name, number in zip(names, served, strict=True):
        assert torch.equal(
            program({program.signature.inputs[0].name: IDS[0]})[name], expected[f"part{number}" if as_dict else number]
        )


def test_a_cache_that_begins_empty_is_no_reason_to_refuse() -> None:
    class Caches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.key = nn.Embedding(100, 8), nn.Linear(8, 8)

        def forward(self, history: Tensor) -> Tensor:
            keys = torch.cat([torch.tensor([]), self.key(self.table(history))], dim=-2)
            return keys.softmax(1).sum((1, 2))

    program = capture(Caches(), (torch.randint(0, 100, (6, 5)),))
    assert "table.weight:1" in {group.name for group in program.analysis.groups}


def test_heads_that_leave_the_batch_by_chunk_are_captured() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.key = nn.Embedding(50, 8), nn.Linear(8, 8)

        def forward(self, history: Tensor) -> Tensor:
            heads = torch.cat(self.key(self.table(history)).chunk(2, dim=-1), 0)
            attended = (heads @ heads.transpose(1, 2)).softmax(-1) @ heads
            return torch.cat(torch.chunk(attended, 2, dim=0), -1).sum((1, 2))

    model, history = Heads().eval(), torch.randint(0, 50, (9, 6))
    program = capture(model, (history[:8],))
    assert torch.allclose(program({"history": history})["output"], model(history), atol=1e-5)


class AnyKeyword(nn.Module):
    """As a LightningModule that passes its request on."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.top = nn.Embedding(9, 4), nn.Linear(5, 1)

    def forward(self, *args: Tensor, **features: Tensor) -> Tensor:
        return self.top(torch.cat([self.table(features["user"]), features["x"]], 1))


def test_keywords_of_any_name() -> None:
    request = {"user": torch.arange(6), "x": torch.rand(6, 1)}
    module = AnyKeyword().eval()
    program = capture(module, (), request)
    assert [i.name for i in program.signature.inputs] == ["user", "x"]
    torch.testing.assert_close(program(request)["output"], module(**request))


class NumpyAnswer(AnyKeyword):
    def forward(self, *args: Tensor, **features: Tensor) -> Any:
        return super().forward(*args, **features).detach().numpy()


def test_a_numpy_answer_is_refused_by_name() -> None:
    with pytest.raises(CaptureError, match=r"returns no tensor, but a NumPy array"):
        capture(NumpyAnswer().eval(), (), {"user": torch.arange(6), "x": torch.rand(6, 1)})


class WithMask(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.top = nn.Embedding(30, 8), nn.Linear(8, 1)

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        scores = self.top(self.table(ids))
        return {"scores": scores, "likely": scores > 0}


def test_a_boolean_answer_beside_scores() -> None:
    program = capture(WithMask().eval(), (torch.arange(6),))
    assert _compare(program, program) == 0.0


@torch.library.custom_op("recprune_tests::without_shape", mutates_args=())
def without_shape(x: Tensor) -> Tensor:
    return x * 2


def test_an_operator_without_a_shape_is_named_with_the_cure() -> None:
    class Doubled(WithMask):
        def forward(self, ids: Tensor) -> Tensor:
            return without_shape(super().forward(ids)["scores"])

    with pytest.raises(
        CaptureError, match=r"recprune_tests::without_shape at .* line \d+ .*torch.library.register_fake"
    ):
        capture(Doubled().eval(), (torch.arange(6),))


class Losses(nn.Module):
    """A model that answers its loss alone, in one of several forms."""

    def __init__(self, form: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.table, self.top, self.form = nn.Embedding(30, 8), nn.Linear(8, 1), form

    def forward(self, ids: Tensor, labels: Tensor | None = None) -> Any:
        scores = self.top(self.table(ids)).squeeze(1)
        return scores if labels is None else self.form(nn.functional.binary_cross_entropy_with_logits(scores, labels))


@pytest.mark.parametrize(
    ("form", "name"),
    [
        (lambda loss: loss, "output"),
        (lambda loss: {"loss": loss}, "loss"),
        (lambda loss: (loss, {"regularization": loss * 2}), "output_0"),
        (lambda loss: loss.reshape(1), "output"),
        (lambda loss: Named(loss, None), "scores"),
    ],
    ids=["number", "dict", "several", "axis", "named"],
)
def test_a_loss_alone_is_refused_with_the_cure(form: Callable[[Tensor], Any], name: str) -> None:
    module = Losses(form).eval()
    with pytest.raises(
        CaptureError, match=rf"returns only '{name}'.* such as a loss: leave 'labels' out of the example request"
    ):
        capture(module, (), {"ids": torch.arange(6), "labels": torch.ones(6)})
    assert capture(module, (torch.arange(6),)).signature.outputs[0].shape == ("batch",)


def test_without_labels_the_scores_are_asked_for() -> None:
    class Mean(WithMask):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids)["scores"].mean()

    with pytest.raises(CaptureError, match="such as a loss: let the model return its scores"):
        capture(Mean().eval(), (torch.arange(6),))
