import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recprune_export.data import NEXT_ITEM
from recprune_export.errors import ModelError, UsageError
from recprune_export.finetuning import Objective, make_objective
from recprune_export.finetuning.task import predict_label
from recprune_export.program import Program
from recprune_export.program.capture import capture
from tests.recommenders.test_recommenders import CLICKS, make

ITEMS, DIM = 40, 8


class Towers(nn.Module):
    """What a user tower may return, by name: `items`, `candidates`, `vector`, `classes`, `logit`."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.users, self.items = nn.Embedding(30, DIM), nn.Embedding(ITEMS, DIM)
        self.tower, self.classes = nn.Linear(DIM, DIM), nn.Linear(DIM, 2)

    def forward(self, user: Tensor, candidates: Tensor) -> Tensor:
        vector = self.tower(self.users(user))
        scores = (self.items(candidates) * vector[:, None]).sum(-1)
        answers = {
            "items": vector @ self.items.weight.T / 3 + 1,
            "candidates": scores,
            "vector": vector,
            "classes": self.classes(vector),
            "logit": scores[:, 0],
        }
        return answers[self.kind]


def towers(kind: str) -> Program:
    torch.manual_seed(0)
    return capture(Towers(kind), (torch.tensor([1, 2, 3]), torch.randint(ITEMS, (3, 5))))


def meaning(program: Program, *labels: str) -> str:
    (found,) = make_objective(program, labels).output_kinds.values()
    return found


@pytest.mark.parametrize("name", ["two_tower", "neumf"])
def test_click_models_have_logits(name: str) -> None:
    program = capture(make(name), (CLICKS.example_request(),))
    assert meaning(program, *CLICKS.labels) == "logit"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("items", "scores"), ("candidates", "scores"), ("vector", "value"), ("classes", "value"), ("logit", "value")],
)
def test_scores_of_items_and_candidates_are_recognised_without_labels(kind: str, expected: str) -> None:
    assert meaning(towers(kind)) == expected


@pytest.mark.parametrize(("kind", "expected"), [("logit", "logit"), ("classes", "classes")])
def test_a_label_of_each_row_meets_one_number_or_two(kind: str, expected: str) -> None:
    assert meaning(towers(kind), "clicked") == expected


def test_scores_are_a_ranking_beside_the_next_item_only() -> None:
    assert meaning(towers("items"), NEXT_ITEM) == "ranking"
    with pytest.raises(UsageError, match=r"label 'clicked' is one number for each row.*\['batch', 40\]"):
        make_objective(towers("items"), ("clicked",))


def distance(student: Tensor, teacher: Tensor) -> float:
    return float(Objective({"y": "scores"}, {}).distillation({"y": student}, {"y": teacher}))


def test_scores_are_distilled_in_order_and_in_value_whatever_their_scale() -> None:
    torch.manual_seed(0)
    teacher, noise = torch.randn(16, 30), torch.randn(16, 30)
    least = distance(teacher, teacher)
    assert distance(teacher + 0.1 * noise, teacher) > least
    assert distance(teacher + 1.0, teacher) > least + 0.5  # the order is the same, the values are not
    for scale in (1e-3, 1e3):
        assert distance((teacher + noise) * scale, teacher * scale) == pytest.approx(
            distance(teacher + noise, teacher), rel=1e-4
        )


def test_an_error_among_the_best_costs_more_than_among_the_worst() -> None:
    teacher = torch.linspace(2.0, -2.0, 30).expand(8, 30)
    best, worst = teacher.clone(), teacher.clone()
    best[:, :2], worst[:, -2:] = best[:, :2].flip(1), worst[:, -2:].flip(1)
    assert F.mse_loss(best, teacher) == pytest.approx(float(F.mse_loss(worst, teacher)), rel=1e-4)
    assert distance(best, teacher) > distance(worst, teacher)


def test_masked_candidates_are_left_out() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(4, 10)
    masked = teacher.masked_fill(torch.arange(10) > 6, -torch.inf)
    student = (masked + 0.1).requires_grad_()
    loss = Objective({"y": "scores"}, {}).distillation({"y": student}, {"y": masked})
    loss.backward()
    assert student.grad is not None
    assert student.grad[:, :7].isfinite().all()
    assert not student.grad[:, 7:].any()
    assert float(loss.detach()) == pytest.approx(distance(teacher[:, :7] + 0.1, teacher[:, :7]), rel=0.2)


def test_two_logits_are_one_probability() -> None:
    logits = torch.randn(5, 2)
    expected = logits.softmax(1)[:, 1].double().numpy()
    assert predict_label(logits.numpy(), "classes") == pytest.approx(expected, abs=1e-6)
    loss = Objective({"y": "classes"}, {"y": "clicked"}).supervised({"y": logits}, {"clicked": torch.ones(5)})
    assert float(loss) == pytest.approx(float(-logits.log_softmax(1)[:, 1].mean()))


class Masked(nn.Module):
    """Scores of all items, those of the history masked."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(ITEMS, DIM)

    def forward(self, history: Tensor) -> Tensor:
        scores = self.items(history).mean(1) @ self.items.weight.T
        return scores.scatter(1, history, float("-inf"))


def test_masked_items_have_no_say() -> None:
    torch.manual_seed(0)
    program = capture(Masked(), (torch.tensor([[1, 2], [3, 4], [5, 6]]),))
    objective = make_objective(program, ())
    answer = program({"history": torch.tensor([[1, 2], [7, 8]])})
    assert answer["output"].isinf().any()
    weight = program.parameters()["items.weight"]
    for value in (
        objective.probe(answer, torch.Generator().manual_seed(0)),
        objective.distillation(answer, {"output": answer["output"].detach() * 1.1}),
    ):
        (gradient,) = torch.autograd.grad(value, [weight], retain_graph=True)
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0.0


@pytest.mark.parametrize("meaning", ["ranking", "scores", "value", "classes"])
def test_distances_of_infinite_answers_are_finite(meaning: str) -> None:
    objective = Objective({"y": meaning}, {})  # type: ignore[dict-item]
    teacher = torch.tensor([[1.0, float("-inf"), 2.0], [0.0, 1.0, float("-inf")]])
    student = (teacher + torch.tensor([0.5, 0.5, -0.5])).requires_grad_()
    distance = objective.distillation({"y": student}, {"y": teacher})
    (gradient,) = torch.autograd.grad(distance, [student])
    assert distance.isfinite()
    assert gradient.isfinite().all()
    same = objective.distillation({"y": teacher}, {"y": teacher})
    assert float(distance) > float(same)


def test_a_model_of_ids_alone_is_refused() -> None:
    class Best(Masked):
        def forward(self, history: Tensor) -> Tensor:
            return super().forward(history).topk(3).indices

    program = capture(Best(), (torch.tensor([[1, 2], [3, 4], [5, 6]]),))
    with pytest.raises(ModelError, match=r"'output' \(int64\).*let it return its scores"):
        make_objective(program, ())


def test_a_row_of_equal_scores_does_not_outweigh_the_others() -> None:
    objective = Objective({"s": "scores"}, {})
    teacher = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    teacher[0] = 0.0
    near = objective.distillation({"s": teacher + 1e-3 * torch.linspace(-1, 1, 20)}, {"s": teacher})
    torch.testing.assert_close(near, objective.distillation({"s": teacher}, {"s": teacher}), atol=0.1, rtol=0.0)


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.click, self.buy = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"click": self.click(x).squeeze(1), "buy": self.buy(x).squeeze(1)}


def test_a_note_says_which_label_an_output_has_where_names_do_not() -> None:
    program = capture(TwoHeads(), (torch.ones(4, 3),))
    (note,) = make_objective(program, ("bought",)).notes
    assert "Label 'bought' is compared with output 'click', and none with 'buy'" in note
    (note,) = make_objective(program, ("clicked", "bought")).notes
    assert "Label 'clicked' is compared with output 'click', label 'bought' is compared with output 'buy'" in note
    assert make_objective(program, ("buy",)).notes == ()
    assert make_objective(program, ("buy", "click")).notes == ()
