"""Graphs of two towers are split where they meet; the vectors give the scores of the whole graph."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from recprune_export.derived.towers import combine_vectors, open_towers, write_tower
from recprune_export.errors import ModelError, UsageError
from recprune_export.onnx import export_onnx, make_session, run
from recprune_export.onnx.export import ServingConfig
from recprune_export.program import sample_request
from recprune_export.program.capture import capture

WIDTH = 6
Meet = Callable[["Towers", Tensor, Tensor, Tensor, Tensor], Tensor]


class Towers(nn.Module):
    """Two towers over `user` and `item` with `kind`, which meet in `meet`; each has a number of its own as well."""

    def __init__(self, meet: Meet, hidden: int = 0) -> None:
        super().__init__()
        self.users, self.items, self.kinds = nn.Embedding(20, WIDTH), nn.Embedding(30, WIDTH), nn.Embedding(4, WIDTH)
        self.user_bias, self.item_bias = nn.Embedding(20, 1), nn.Embedding(30, 1)
        self.weights = nn.Linear(WIDTH, 1)
        width = hidden or WIDTH
        self.user_layers = (
            nn.Sequential(nn.Linear(WIDTH, width), nn.ReLU(), nn.Linear(width, WIDTH)) if hidden else nn.Identity()
        )
        self.item_layers = (
            nn.Sequential(nn.Linear(WIDTH, width), nn.Tanh(), nn.Linear(width, WIDTH)) if hidden else nn.Identity()
        )
        self.meet = meet

    def forward(self, user: Tensor, item: Tensor, kind: Tensor) -> Tensor:
        users = self.user_layers(self.users(user))
        items = self.item_layers(self.items(item) + self.kinds(kind))
        return self.meet(self, users, items, self.user_bias(user)[:, 0], self.item_bias(item)[:, 0])


def dot(u: Tensor, i: Tensor) -> Tensor:
    return (u * i).sum(1)


MEETINGS: dict[str, Meet] = {
    "product": lambda _, u, i, a, b: dot(u, i),
    "column": lambda _, u, i, a, b: (u * i).sum(1, keepdim=True),
    "sigmoid": lambda _, u, i, a, b: torch.sigmoid(1.5 * dot(u, i) - 0.5),
    "scale in front": lambda _, u, i, a, b: (u * i / WIDTH**0.5).sum(1) * 3.0,
    "biases": lambda _, u, i, a, b: dot(u, i) + a + b + 0.25,
    "bias of the item in a sigmoid": lambda _, u, i, a, b: torch.sigmoid(2.0 * dot(u, i) - b),
    "bias before a scale": lambda _, u, i, a, b: 2.0 * (dot(u, i) + b) + a,
    "from one": lambda _, u, i, a, b: 1.0 - (a - dot(u, i)),
    "linear": lambda m, u, i, a, b: m.weights(u * i),
    "einsum": lambda _, u, i, a, b: torch.einsum("bd,bd->b", u, i),
    "bmm": lambda _, u, i, a, b: torch.bmm(u[:, None], i[:, :, None]).flatten(),
    "cosine": lambda _, u, i, a, b: F.cosine_similarity(u, i),
    "normalized": lambda _, u, i, a, b: dot(F.normalize(u), F.normalize(i)) * 10.0,
    "norms behind": lambda _, u, i, a, b: dot(u, i) / (u.norm(dim=1) * i.norm(dim=1)),
    "norm of a side behind": lambda _, u, i, a, b: dot(u, i) / i.norm(dim=1),
}


def export(module: nn.Module, folder: Path, shared: tuple[str, ...] = ()) -> tuple[Path, object]:
    program = capture(module, (torch.arange(4), torch.arange(4), torch.arange(4)))
    file = export_onnx(program, folder / "model.onnx", serving=ServingConfig((1, 32), shared))
    return file.path, file.signature


def check_apart(path: Path, signature: object, folder: Path, seed: int = 0) -> None:
    score, towers = open_towers(path, signature)  # type: ignore[arg-type]
    assert [[i.name for i in tower.inputs] for tower in towers] == [["user"], ["item", "kind"]]
    rows = sample_request(towers[0].signature, 7, seed=seed) | sample_request(towers[1].signature, 7, seed=seed)
    vectors = []
    for tower in towers:
        file = write_tower(path, tower, folder / tower.file)
        own = {i.name: rows[i.name] for i in tower.inputs}
        vectors.append(run(make_session(file.path, 1), own)[tower.output])
        assert vectors[-1].shape == (7, tower.width)
    if any(i.shared for i in signature.inputs):  # type: ignore[attr-defined]
        rows["user"] = rows["user"][:1]
        vectors[0] = vectors[0][:1]
    (expected,) = run(make_session(path, 1), rows).values()
    assert np.allclose(combine_vectors(score, *vectors), expected.reshape(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("meet", MEETINGS.values(), ids=MEETINGS.keys())
def test_towers_give_the_score_of_the_model(tmp_path: Path, meet: Meet) -> None:
    torch.manual_seed(0)
    check_apart(*export(Towers(meet), tmp_path), tmp_path)


@pytest.mark.slow
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    meet=st.sampled_from(sorted(MEETINGS)),
    hidden=st.sampled_from([0, 16]),
    shared=st.booleans(),
    seed=st.integers(0, 1 << 16),
)
def test_any_two_towers(tmp_path: Path, meet: str, hidden: int, shared: bool, seed: int) -> None:
    torch.manual_seed(seed)
    path, signature = export(Towers(MEETINGS[meet], hidden), tmp_path, ("user",) if shared else ())
    check_apart(path, signature, tmp_path, seed)


REFUSED: dict[str, tuple[Meet, str]] = {
    "an added product": (
        lambda _, u, i, a, b: dot(u, i) + (u * i).amax(1),
        "The inputs user, item, kind meet at",
    ),
    "concatenation": (
        lambda m, u, i, a, b: m.weights(u + torch.tanh(u + i)),
        "The inputs user, item, kind meet at the operator",
    ),
    "two products": (
        lambda _, u, i, a, b: dot(u, i) + dot(u, i * i),
        "The inputs user, item, kind meet at the operator",
    ),
    "both sides": (lambda _, u, i, a, b: dot(u * b[:, None], i), "'item' reaches both sides of the ReduceSum of Mul"),
    "a term of both": (lambda _, u, i, a, b: dot(u, i) + a * b, "a part of 'output' in addition to the ReduceSum"),
    "negative": (lambda _, u, i, a, b: -2.0 * dot(u, i), "decreases with the inner product"),
    "one side alone": (lambda _, u, i, a, b: dot(u, u), "reads 'user' alone"),
    "several scores": (lambda _, u, i, a, b: u * i, "contains several scores per row"),
    "a maximum": (lambda _, u, i, a, b: (u * i).amax(1), "The inputs user, item, kind meet at the operator Mul"),
}


@pytest.mark.parametrize(("meet", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_other_models_are_refused_with_the_reason(tmp_path: Path, meet: Meet, sentence: str) -> None:
    torch.manual_seed(0)
    path, signature = export(Towers(meet), tmp_path)
    with pytest.raises(ModelError, match=sentence):
        open_towers(path, signature)  # type: ignore[arg-type]


def test_the_user_is_who_is_named(tmp_path: Path) -> None:
    path, signature = export(Towers(MEETINGS["product"]), tmp_path)
    _, towers = open_towers(path, signature, "kind")  # type: ignore[arg-type]
    assert [i.name for i in towers[0].inputs] == ["item", "kind"]
    with pytest.raises(UsageError, match=r"--user-input: 'users' is not an input of a tower.*did you mean 'user'"):
        open_towers(path, signature, "users")  # type: ignore[arg-type]
