"""Whatever is called rotatable can be transformed by any matrix of its kind, and the answers stay."""

import pytest
import torch
from torch import Tensor, nn

from recprune_export.errors import PruningError
from recprune_export.program import Program
from recprune_export.program.capture import _capture, capture
from recprune_export.pruning import (
    Transform,
    apply_transforms,
    find_rotatable_groups,
    insert_projections,
    plan_projections,
)
from recprune_export.pruning.rotation import RotatableGroup
from recprune_export.recommenders import RECOMMENDERS
from tests.properties import no_zeros
from tests.recommenders.test_recommenders import make, spec_of


def random_transform(width: int, orthogonal: bool, seed: int = 0) -> Transform:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    q = torch.linalg.qr(matrix).Q
    stretch = torch.linspace(0.5, 2.0, width, dtype=torch.float64)
    return Transform(q if orthogonal else q * stretch @ torch.linalg.qr(matrix.T).Q)


def rotated(program: Program) -> dict[str, RotatableGroup]:
    """Assert that transforming every rotatable group changes nothing (`apply_transforms` compares), and return those."""
    analysis = program.analysis
    legal = find_rotatable_groups(program).rotatable
    transforms = {n: random_transform(analysis.group(n).width, r.orthogonal) for n, r in legal.items()}
    after = apply_transforms(program, legal, transforms)
    for name in legal:
        for tensor, _ in legal[name].sides:
            assert not torch.equal(after.parameters()[tensor], program.parameters()[tensor])
    return dict(legal)


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_rotations_change_no_answer_of_a_recommender(name: str) -> None:
    rotated(capture(make(name), (spec_of(name).example_request(),)))


@pytest.mark.parametrize("name", sorted(RECOMMENDERS))
def test_loosened_recommenders_answer_alike_and_can_be_rotated(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tables of the tests are small.
    monkeypatch.setattr("recprune_export.pruning.rotation.projections.MIN_ROWS_PER_DIMENSION", 0)
    program = capture(make(name), (spec_of(name).example_request(),))
    loose = insert_projections(program, plan_projections(program))
    legal = rotated(loose)
    tables = {t for t in loose.analysis.tables if t.endswith("weight") and loose.parameters()[t].shape[1] > 1}
    assert tables <= {tensor for r in legal.values() for tensor, _ in r.sides}


class Tables(nn.Module):
    """Two tables of 6 dimensions, and what is done with them."""

    def __init__(self, combine: str) -> None:
        super().__init__()
        self.combine = combine
        self.a, self.b = nn.Embedding(20, 6), nn.Embedding(30, 6)
        self.linear, self.gain, self.norm = nn.Linear(6, 3), nn.Parameter(torch.randn(6)), nn.LayerNorm(6)

    def forward(self, ids: Tensor) -> Tensor:
        """[B, 2] -> [B] or [B, 3]."""
        a, b = self.a(ids[:, 0]), self.b(ids[:, 1])
        return {
            "dot": lambda: (a * b).sum(1),
            "linear of a sum": lambda: self.linear(a + b),
            "dot with itself": lambda: (a * a).sum(1) + (b * b).sum(1) + (a * b).sum(1),
            "fm": lambda: ((a + b).square() - a.square() - b.square()).sum(1),
            "bmm": lambda: torch.bmm(a.unsqueeze(1), b.unsqueeze(2)).flatten(),
            "mean and scale": lambda: self.linear(torch.stack([a, b], 1).mean(1) / 6**0.5),
            "norm": lambda: a.norm(dim=1) + b.norm(dim=1),
            "relu": lambda: self.linear(torch.relu(a)) + self.linear(torch.relu(b)),
            "product": lambda: self.linear(a * b),
            "gain": lambda: self.linear(a * self.gain) + self.linear(b),
            "layer norm": lambda: self.linear(self.norm(a + b)),
            "sum of channels": lambda: a.sum(1) + b.sum(1),
            "third power": lambda: a.pow(3).sum(1) + b.pow(3).sum(1),
            "offset": lambda: self.linear(a + 1.0) + self.linear(b + 1.0),
            "split": lambda: self.linear(torch.cat([a[:, :3], b[:, 3:]], 1)) + self.linear(a),
            "softmax": lambda: self.linear(a.softmax(1) + b.softmax(1)),
        }[self.combine]()


@pytest.mark.parametrize(
    ("combine", "orthogonal"),
    [
        ("dot", {False}),
        ("linear of a sum", {False}),
        ("dot with itself", {True}),
        ("fm", {True}),
        ("bmm", {False}),
        ("mean and scale", {False}),
        ("norm", {True}),
    ],
)
def test_what_is_linear_or_an_inner_product_rotates(combine: str, orthogonal: set[bool]) -> None:
    legal = rotated(capture(no_zeros(Tables(combine)), (torch.zeros(3, 2, dtype=torch.int64),)))
    assert {r.orthogonal for r in legal.values()} == orthogonal
    assert {t for r in legal.values() for t, _ in r.sides} >= {"a.weight", "b.weight"}


@pytest.mark.parametrize(
    "combine",
    ["relu", "product", "gain", "layer norm", "sum of channels", "third power", "offset", "softmax"],
)
def test_what_treats_channels_one_by_one_does_not(combine: str) -> None:
    program = capture(no_zeros(Tables(combine)), (torch.zeros(3, 2, dtype=torch.int64),))
    analysis = program.analysis
    found = find_rotatable_groups(program)
    touched = {"a.weight"} if combine == "gain" else {"a.weight", "b.weight"}
    assert not touched & {t for r in found.rotatable.values() for t, _ in r.sides}
    assert all(found.reasons[g.name] for g in analysis.groups if g.name not in found.rotatable)


def test_channels_that_go_separate_ways_rotate_among_themselves() -> None:
    """Dimensions 0 to 2 never meet 3 to 5, so there is a group of each."""
    legal = rotated(capture(no_zeros(Tables("split")), (torch.zeros(3, 2, dtype=torch.int64),)))
    assert len(legal) >= 2


def test_a_transform_that_is_not_allowed_is_refused() -> None:
    program = capture(no_zeros(Tables("relu")), (torch.zeros(3, 2, dtype=torch.int64),))
    analysis = program.analysis
    name = analysis.groups[0].name
    with pytest.raises(PruningError, match="does not allow"):
        apply_transforms(program, {}, {name: random_transform(6, orthogonal=True)})


def test_a_transform_that_changes_the_answers_is_found_out() -> None:
    """A stretch is no transform of a group whose two sides are one table."""
    program = capture(no_zeros(Tables("fm")), (torch.zeros(3, 2, dtype=torch.int64),))
    legal = find_rotatable_groups(program).rotatable
    ((name, own),) = legal.items()
    assert own.orthogonal
    with pytest.raises(PruningError, match="changed the outputs"):
        apply_transforms(program, legal, {name: random_transform(6, orthogonal=False)})


class PartlyShared(nn.Module):
    """The first dimensions of every vector are one and the same parameter, so the table's group is a part of the axis."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.shared = nn.Embedding(200, 8), nn.Parameter(torch.randn(2))
        self.norm, self.mix, self.head = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        x[:, :, :2] = self.shared
        return self.head((x + self.mix(self.norm(x))).mean(1))  # type: ignore[no-any-return]


def test_no_matrix_is_put_where_an_axis_holds_the_channels_of_others_too() -> None:
    program = capture(no_zeros(PartlyShared()), (torch.randint(200, (3, 4)),))
    analysis = program.analysis
    (group,) = [g for g in analysis.groups if g.kind == "embedding" and g.width < 8 and len(g.axes()) > 1]
    assert group.width == 6
    loose = insert_projections(program, plan_projections(program))
    request = torch.randint(200, (5, 4))
    torch.testing.assert_close(loose.module(request)[0], program.module(request)[0])


class ByIndex(nn.Module):
    """Tables that are a parameter and a buffer, of which rows are taken by an index."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = nn.Parameter(torch.randn(20, 6)), nn.Linear(12, 3)
        self.register_buffer("images", torch.randn(20, 6))

    def forward(self, ids: Tensor) -> Tensor:
        return self.linear(torch.cat([self.table[ids], self.images[ids]], 1))  # type: ignore[no-any-return]


def test_rows_that_an_index_takes_rotate() -> None:
    program = capture(no_zeros(ByIndex()), (torch.tensor([1, 2, 3]),))
    legal = find_rotatable_groups(program).rotatable
    assert {"table", "images"} <= {tensor for r in legal.values() for tensor, _ in r.sides}
    assert all(r.sources for r in legal.values())
    transforms = {n: random_transform(6, r.orthogonal) for n, r in legal.items()}
    after = apply_transforms(program, legal, transforms)  # which compares the answers
    assert not torch.equal(after.module.images, program.module.images)  # type: ignore[arg-type]


class Coarse(nn.Module):
    """A table in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = nn.Embedding(20, 6), nn.Linear(6, 3)
        self.table.half()

    def forward(self, ids: Tensor) -> Tensor:
        return self.linear(self.table(ids).float())  # type: ignore[no-any-return]


def test_what_is_stored_in_few_bits_does_not_rotate(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_rotatable_groups(capture(no_zeros(Coarse()), (torch.tensor([1, 2, 3]),))).rotatable  # in float32
    monkeypatch.setattr(
        _capture, "describe_half_precision", lambda _: None
    )  # as programs of former releases were saved
    program = capture(no_zeros(Coarse()), (torch.tensor([1, 2, 3]),))
    analysis = program.analysis
    found = find_rotatable_groups(program)
    assert not found.rotatable
    assert "too few bits" in found.reasons[analysis.groups[0].name]


class Learned(nn.Module):
    """A learned query that no layer reads and no id looks up."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.table = nn.Parameter(torch.randn(4, 6)), nn.Embedding(20, 6)

    def forward(self, ids: Tensor) -> Tensor:
        return self.table(ids) @ self.query.t()  # type: ignore[no-any-return]


def test_every_group_that_rotates_has_a_place_where_it_is_looked_at() -> None:
    program = capture(no_zeros(Learned()), (torch.tensor([1, 2, 3]),))
    legal = find_rotatable_groups(program).rotatable
    assert legal
    assert all(r.sources for r in legal.values())
