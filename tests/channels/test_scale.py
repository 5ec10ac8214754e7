"""The analysis of long tables and of many fields: no memory for rows, and the same tags as by elements."""

import tracemalloc
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn

from recprune_export.channels import analyze
from recprune_export.channels.dependency_sets import DependencySets, has_tags, untagged_like
from recprune_export.channels.rules import data_movement
from recprune_export.program.capture import capture, export_module

BILLION = 1_000_000_000


class Lookup(nn.Module):
    """A product of two lookups, and a layer; the tables hold one row, expanded."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.left, self.right = nn.Embedding(2, 8), nn.Embedding(2, 8)
        for table in (self.left, self.right):
            table.num_embeddings, table.weight = rows, nn.Parameter(torch.ones(1, 8).expand(rows, 8))
        self.layer = nn.Linear(8, 1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.layer(self.left(left) * self.right(right))  # type: ignore[no-any-return]


def test_rows_change_nothing() -> None:
    few, many = (capture(Lookup(rows), (torch.arange(2), torch.arange(2))) for rows in (1_000, BILLION))
    assert many.analysis.groups == few.analysis.groups
    assert analyze(many, fields=True).removed_by == analyze(few, fields=True).removed_by
    assert {(f.tensor, f.axis, f.count) for f in many.analysis.frozen} == {
        (f.tensor, f.axis, f.count) for f in few.analysis.frozen
    }


def test_sets_of_repeated_elements_are_those_of_the_written_out_ones() -> None:
    sets = DependencySets()
    tags = sets.singletons(("w", 0, index) for index in range(4))
    repeated = tags.reshape(1, 4).expand(3, 4)
    other = tags.flip(0).reshape(4, 1)[:3].expand(3, 4)
    for operator in (sets.union, sets.intersection, sets.difference):
        assert torch.equal(operator(repeated, other), operator(repeated.clone(), other.clone()))
    for axis in (0, 1):
        assert torch.equal(sets.intersection_along(repeated, axis), sets.intersection_along(repeated.clone(), axis))
    assert not has_tags(untagged_like(tags).expand(BILLION, 4))
    tracemalloc.start()
    sets.union(untagged_like(tags).expand(BILLION, 4), tags)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


class Joined(nn.Module):
    """Vectors of several widths, one of them repeated, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(9, width) for width in (3, 1, 4))
        self.layer, self.head = nn.Linear(11, 5), nn.Linear(5, 1)

    def forward(self, ids: Tensor) -> Tensor:
        one, two, three = (table(ids[:, i]) for i, table in enumerate(self.tables))
        return self.head(torch.relu(self.layer(torch.cat([one, two, three.sigmoid(), one], 1))))  # type: ignore[no-any-return]


def test_joined_axes_have_the_tags_of_their_elements(monkeypatch: pytest.MonkeyPatch) -> None:
    program = capture(Joined(), (torch.zeros(2, 3, dtype=torch.int64),))
    by_axis = analyze(program)
    monkeypatch.setattr(data_movement, "_join_axes", lambda *_: None)
    assert by_axis == analyze(program)


@pytest.mark.parametrize("name", ["a", "a@1", "a@12", "a@", "ab", "a@x", "b", "@1", "a@1@2"])
@pytest.mark.parametrize("base", ["a", "b", "a@1"])
def test_calls_of_a_module_are_named_as_torch_names_them(name: str, base: str) -> None:
    assert export_module._is_call_name(name, base) == import_module("torch.export.unflatten")._is_call_name(name, base)


def test_a_release_of_pytorch_without_the_private_names_is_not_patched(monkeypatch: pytest.MonkeyPatch) -> None:
    unflatten = import_module("torch.export.unflatten")
    monkeypatch.delattr(unflatten, "_is_call_name")
    with export_module.skip_slow_bookkeeping():
        assert not hasattr(unflatten, "_is_call_name")
