"""The loss against labels of any kind: a plain formula, rows without a label, weights, and what does not fit a model."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recprune_export.data import LabelKind, LabelValues
from recprune_export.data.batch import ROW_WEIGHTS
from recprune_export.errors import DataError, RecpruneError, UsageError
from recprune_export.finetuning import Objective, label_outputs, make_objective
from recprune_export.finetuning.objective import OutputKind
from recprune_export.finetuning.task import predict_label
from recprune_export.program import Program
from recprune_export.program.capture import capture

CASES: dict[str, tuple[OutputKind, LabelKind]] = {
    "logit": ("logit", LabelKind.BINARY),
    "probability": ("probability", LabelKind.BINARY),
    "two logits": ("classes", LabelKind.BINARY),
    "classes": ("classes", LabelKind.CLASSES),
    "class probabilities": ("class probabilities", LabelKind.CLASSES),
    "number": ("value", LabelKind.NUMBER),
    "bounded number": ("probability", LabelKind.NUMBER),
}
VARIANCE = 2.5


def row_loss(case: str, output: np.ndarray, label: float) -> float:
    """The loss of one row, written out."""
    kind, label_kind = CASES[case]
    if label_kind is LabelKind.NUMBER:
        return float((output[0] - label) ** 2) / VARIANCE
    if kind in ("logit", "probability"):
        p = output[0] if kind == "probability" else 1 / (1 + np.exp(-output[0]))
        return float(-np.log(p if label == 1 else 1 - p))
    shares = output if kind == "class probabilities" else np.exp(output) / np.exp(output).sum()
    return float(-np.log(shares[int(label)]))


def mean_loss(case: str, outputs: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Σ w·loss / Σ w over the rows with a label."""
    factors = np.ones(len(labels)) if weights is None else weights
    rows = [(w, row_loss(case, o, y)) for o, y, w in zip(outputs, labels, factors, strict=True) if not np.isnan(y)]
    total = sum(w for w, _ in rows)
    return sum(w * loss for w, loss in rows) / total if total else 0.0


@st.composite
def batches(draw: st.DrawFn) -> tuple[str, np.ndarray, np.ndarray, np.ndarray | None]:
    """A case, outputs [B, k], labels [B] with NaN, and whole weights [B] or None."""
    case = draw(st.sampled_from(sorted(CASES)))
    kind, label_kind = CASES[case]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    count = draw(st.integers(1, 12))
    width = {"two logits": 2, "classes": 4, "class probabilities": 4}.get(case, 1)
    outputs = rng.normal(size=(count, width))
    if kind == "probability":
        outputs = 1 / (1 + np.exp(-outputs))
    if kind == "class probabilities":
        outputs = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    highest = 5 if label_kind is LabelKind.NUMBER else max(width, 2) - 1
    labels = rng.integers(0, highest + 1, count).astype(np.float32)
    labels[rng.random(count) < draw(st.sampled_from((0.0, 0.3, 1.0)))] = np.nan
    weights = rng.integers(0, 4, count).astype(np.float32) if draw(st.booleans()) else None
    return case, outputs, labels, weights


def supervised(case: str, outputs: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> Tensor:
    kind, label_kind = CASES[case]
    objective = Objective({"o": kind}, {"o": "y"}, {"y": label_kind}, {"y": VARIANCE})
    shaped = torch.from_numpy(outputs[:, 0] if outputs.shape[1] == 1 else outputs).requires_grad_()
    weighted = {} if weights is None else {ROW_WEIGHTS: torch.from_numpy(weights)}
    loss = objective.supervised({"o": shaped}, {"y": torch.from_numpy(labels), **weighted})
    (gradient,) = torch.autograd.grad(loss, [shaped])
    assert gradient.isfinite().all()
    gaps = torch.from_numpy(np.isnan(labels))
    assert not gradient[gaps].any()
    return loss.detach()


@settings(max_examples=120)
@given(batches())
def test_the_loss_is_the_weighted_mean_over_rows_with_a_label(
    batch: tuple[str, np.ndarray, np.ndarray, np.ndarray | None],
) -> None:
    case, outputs, labels, weights = batch
    loss = float(supervised(case, outputs, labels, weights))
    assert loss == pytest.approx(mean_loss(case, outputs, labels, weights), rel=1e-5, abs=1e-9)
    known = ~np.isnan(labels)
    if known.any():
        dropped = float(supervised(case, outputs[known], labels[known], None if weights is None else weights[known]))
        assert loss == pytest.approx(dropped, rel=1e-6, abs=1e-9)
    if weights is not None and weights[known].any():
        times = weights.astype(int)
        repeated = float(supervised(case, outputs.repeat(times, 0), labels.repeat(times)))
        assert loss == pytest.approx(repeated, rel=1e-5, abs=1e-9)


def test_a_label_that_no_row_has_adds_nothing() -> None:
    objective = Objective({"a": "logit", "b": "logit"}, {"a": "a", "b": "b"})
    outputs = {name: torch.zeros(3, requires_grad=True) for name in "ab"}
    loss = objective.supervised(outputs, {"a": torch.ones(3), "b": torch.full((3,), torch.nan)})
    assert float(loss.detach()) == pytest.approx(np.log(2) / 2)


class Model(nn.Module):
    """Outputs by name, each [B] or [B, k]."""

    def __init__(self, **outputs: str | int) -> None:
        super().__init__()
        self.outputs = outputs
        self.table, self.head = nn.Embedding(9, 8), nn.Linear(8, 6)

    def forward(self, user: Tensor) -> Any:
        hidden = self.head(self.table(user))
        answers: dict[str, Tensor] = {}
        for name, form in self.outputs.items():
            if isinstance(form, int):
                answers[name] = hidden[:, :form]
            else:
                ends = {
                    "one": lambda: hidden[:, 0],
                    "sigmoid": lambda: torch.sigmoid(hidden[:, 0]),
                    "clamped sigmoid": lambda: torch.sigmoid(hidden[:, 0]).clamp(1e-6, 1 - 1e-6),
                    "scaled sigmoid": lambda: 1 + 4 * torch.sigmoid(hidden[:, 0]),
                    "softmax": lambda: hidden[:, :4].softmax(1),
                    "two sigmoids": lambda: torch.sigmoid(hidden[:, :2]),
                }
                answers[name] = ends[form]()
        return answers


PROGRAMS: dict[str, Program] = {}


def program(**outputs: str | int) -> Program:
    key = repr(outputs)
    if key not in PROGRAMS:
        PROGRAMS[key] = capture(Model(**outputs), (torch.tensor([1, 2, 3]),))
    return PROGRAMS[key]


def values(*labels: float, words: tuple[str, ...] = ()) -> LabelValues:
    return LabelValues.summarize(np.array(labels, dtype=np.float32), words)


@pytest.mark.parametrize(
    ("form", "label", "output_kind", "kind"),
    [
        ("one", values(0, 1), "logit", LabelKind.BINARY),
        ("one", values(1, 5), "value", LabelKind.NUMBER),
        ("one", values(0, 1, 2, 3), "value", LabelKind.NUMBER),
        ("one", values(0.5, 0.25), "value", LabelKind.NUMBER),
        ("sigmoid", values(0, 1), "probability", LabelKind.BINARY),
        ("sigmoid", values(0, 0.3, 1), "probability", LabelKind.NUMBER),
        ("clamped sigmoid", values(0, 1), "probability", LabelKind.BINARY),
        ("scaled sigmoid", values(1, 5), "value", LabelKind.NUMBER),
        (2, values(0, 1), "classes", LabelKind.BINARY),
        (4, values(0, 1, 2, 3), "classes", LabelKind.CLASSES),
        (4, values(0, 2), "classes", LabelKind.CLASSES),
        (4, values(0, 1, 2, 3, words=("a", "b", "c", "d")), "classes", LabelKind.CLASSES),
        ("softmax", values(0, 1, 2, 3), "class probabilities", LabelKind.CLASSES),
    ],
)
def test_a_label_and_an_output_decide_the_kind(
    form: str | int, label: LabelValues, output_kind: str, kind: LabelKind
) -> None:
    objective = make_objective(program(score=form), ("y",), {"y": label})
    assert objective.output_kinds == {"score": output_kind}
    assert objective.label_kinds == {"y": kind}
    assert bool(objective.notes) == (not label.is_binary)


@pytest.mark.parametrize(
    ("form", "label", "match"),
    [
        (
            "sigmoid",
            values(1, 5),
            "whole numbers from 1 to 5, but the output 'score' is a probability.* without the sigmoid",
        ),
        ("clamped sigmoid", values(0, 7.5), "numbers from 0 to 7.5.*is a probability"),
        ("two sigmoids", values(0, 1), "2 separate probabilities.*logits instead"),
        (4, values(0, 1, 2, 3, 4), "from 0 to 4, but the output 'score' has 4 logits.*write the label as 0 to 3"),
        (4, values(1, 2, 3, 4), "from 1 to 4.*classes 0 to 3"),
        (4, values(-1, 0, 1), "from -1 to 1.*classes 0 to 3"),
        (4, values(0, 2.5), "numbers from 0 to 2.5.*4 logits"),
        (2, values(1, 5), "from 1 to 5.*2 logits"),
        (4, values(0, 1, 2, words=("a", "b", "c")), "texts 'a', 'b', 'c'.*4 numbers for each row and not 3"),
        ("one", values(0, 1, words=("cat", "dog")), "texts 'cat', 'dog'.*write the label as 0 and 1"),
    ],
)
def test_a_label_that_does_not_fit_is_refused(form: str | int, label: LabelValues, match: str) -> None:
    with pytest.raises(DataError, match=match):
        make_objective(program(score=form), ("y",), {"y": label})


def test_labels_take_the_outputs_that_fit_them() -> None:
    labels = {"stars": values(1, 5), "clicked": values(0, 1), "genre": values(0, 1, 2)}
    matched = make_objective(program(a="one", b="sigmoid", c=3), ("stars", "clicked", "genre"), labels)
    assert dict(matched.output_labels) == {"a": "stars", "b": "clicked", "c": "genre"}
    assert dict(matched.output_kinds) == {"a": "value", "b": "probability", "c": "classes"}
    vector = make_objective(program(vector=6, score="one"), ("stars",), {"stars": values(0, 1, 2)})
    assert dict(vector.output_labels) == {"score": "stars"}
    by_name = make_objective(program(a="one", stars="one"), ("stars",), {"stars": values(1, 5)})
    assert dict(by_name.output_labels) == {"stars": "stars"}


def test_a_label_without_an_output_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'bought' has no output: the model returns 'a' \['batch'\]"):
        make_objective(program(a="one"), ("clicked", "bought"))


def test_a_row_of_scores_of_all_items_is_no_row_of_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_outputs, "MAX_CLASSES", 3)
    with pytest.raises(UsageError, match=r"the model returns 'score' \['batch', 4\]"):
        make_objective(program(score=4), ("y",), {"y": values(0, 1, 2, 3)})


@settings(max_examples=40)
@given(st.lists(st.integers(-2, 8), min_size=1, max_size=8), st.sampled_from((1, 2, 3, 4, 5, 6)))
def test_labels_of_whole_numbers_are_classes_numbers_or_refused(labels: list[int], logits: int) -> None:
    label = values(*labels)
    fits = all(0 <= y < logits for y in labels)
    binary = set(labels) <= {0, 1}
    try:
        objective = make_objective(program(score=logits), ("y",), {"y": label})
    except RecpruneError:
        assert logits > 1
        assert not fits or binary
        return
    kind = objective.label_kinds["y"]
    if logits == 1:
        assert kind is (LabelKind.BINARY if binary else LabelKind.NUMBER)
    else:
        assert fits
        assert kind is (LabelKind.BINARY if logits == 2 else LabelKind.CLASSES)


def test_predictions_are_probabilities_or_numbers() -> None:
    scores = np.array([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(predict_label(scores, "classes").sum(1), 1.0)
    np.testing.assert_allclose(predict_label(scores, "classes").argmax(1), [2, 0])
    np.testing.assert_allclose(predict_label(scores[:, 1], "value"), [1.0, 1.0])
    np.testing.assert_allclose(predict_label(np.zeros(2, dtype=np.float32), "logit"), 0.5)
