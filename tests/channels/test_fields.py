"""What counts as a field, and which fields cannot go, with reasons that a user understands."""

import pytest
import torch
from torch import Tensor, nn

from recprune_export.channels import analyze
from recprune_export.program.capture import capture
from tests.properties import no_zeros

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
ONE = torch.tensor([1, 2])


def _fields(module: nn.Module, *args: Tensor) -> tuple[set[str], dict[str, str]]:
    """The fields that can go, and the others with their reasons."""
    analysis = analyze(capture(no_zeros(module), args), fields=True)
    channels = [channel for group in analysis.groups if group.kind == "field" for channel in group.channels]
    assert analysis.fields is not None
    frozen = {f.field.name: f.reason.text for f in analysis.frozen_fields}
    free = {channel.name for channel in channels}
    assert free | set(frozen) == {field.name for field in analysis.fields.ordered}
    return free, frozen


class OneTable(nn.Module):
    """A matrix of ids, of which `offsets` say where in the table each column begins."""

    def __init__(self, offsets: list[int]) -> None:
        super().__init__()
        self.table, self.other = nn.Embedding(40, 4), nn.Embedding(10, 4)
        self.register_buffer("offsets", torch.tensor(offsets))
        self.last = nn.Linear(16, 1)

    def forward(self, ids: Tensor, other: Tensor) -> Tensor:
        vectors = self.table(ids + self.offsets).flatten(1)
        return self.last(torch.cat([vectors, self.other(other)], 1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        ([0, 10, 20], {"ids[0]", "ids[1]", "ids[2]", "other"}),
        ([0, 0, 0], {"ids", "other"}),
        ([0, 10, 0], {"ids[0,2]", "ids[1]", "other"}),
    ],
)
def test_columns_are_one_field_where_they_choose_among_the_same_rows(offsets: list[int], expected: set[str]) -> None:
    assert _fields(OneTable(offsets), IDS, ONE) == (expected, {})


class TwoTables(nn.Module):
    """Two fields; what a subclass makes of their vectors goes into the last layer."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.left, self.right = nn.Embedding(10, 4), nn.Embedding(10, 4)
        self.inner, self.last = nn.Linear(4, 4), nn.Linear(width, 1)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.last(self.combine(a, b, self.left(a), self.right(b)))  # type: ignore[no-any-return]

    def combine(self, a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, y], 1)


class IdsAsNumbers(TwoTables):
    def __init__(self) -> None:
        super().__init__(width=9)

    def combine(self, a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x, y, a.unsqueeze(1).float()], 1)


class LayerOfOneField(TwoTables):
    def combine(self, a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([torch.relu(self.inner(x)), y], 1)


class Attention(TwoTables):
    def combine(self, a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
        fields = torch.stack([x, y], 1)
        return (torch.softmax(fields @ fields.transpose(1, 2), 2) @ fields).flatten(1)


class LargestOfAll(TwoTables):
    def __init__(self) -> None:
        super().__init__(width=4)

    def combine(self, a: Tensor, b: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([x, y], 1).amax(1)


@pytest.mark.parametrize(
    ("module", "frozen"),
    [
        (TwoTables(), {}),
        (IdsAsNumbers(), {"a": "its ids are also used by aten.cat"}),
        (LayerOfOneField(), {"a": "aten.linear of zeros is not zero"}),
        (Attention(), dict.fromkeys("ab", "softmax is computed over it")),
        (LargestOfAll(), dict.fromkeys("ab", "a maximum or product is computed over it")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_a_field_that_cannot_go_says_why(module: nn.Module, frozen: dict[str, str]) -> None:
    free, found = _fields(module, ONE, ONE)
    assert found == frozen
    assert free == {"a", "b"} - set(frozen)


def test_without_being_asked_for_there_are_none() -> None:
    analysis = analyze(capture(no_zeros(TwoTables()), (ONE, ONE)))
    assert analysis.fields is None
    assert all(group.kind != "field" for group in analysis.groups)
