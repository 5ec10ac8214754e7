"""Groups are called by the user's fields and layers."""

import pytest
import torch
from torch import Tensor, nn

from recprune_export.channels import analyze
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.pruning.rotation.projections import project_tables
from recprune_export.pruning.rotation.table_projections import find_per_table_projections, insert_per_table_projections


class TwoFields(nn.Module):
    """Tables of two named inputs, each with a layer of its own, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.ModuleDict({"a": nn.Embedding(40, 8), "b": nn.Embedding(50, 6)})
        self.mlp = nn.Sequential(nn.Linear(14, 12), nn.ReLU(), nn.Linear(12, 1))

    def forward(self, user: Tensor, item: Tensor) -> Tensor:
        return self.mlp(torch.cat([self.embed["a"](user), self.embed["b"](item)], dim=1))


class SharedTable(nn.Module):
    """A table that two inputs look up."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(40, 8)
        self.head = nn.Linear(16, 1)

    def forward(self, item: Tensor, last: Tensor) -> Tensor:
        return self.head(torch.cat([self.items(item), self.items(last)], dim=1))


class PackedInput(nn.Module):
    """Tables of the columns of one input."""

    def __init__(self) -> None:
        super().__init__()
        self.columns = nn.ModuleList([nn.Embedding(40, 4), nn.Embedding(50, 6)])
        self.head = nn.Linear(10, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.cat([table(ids[:, n]) for n, table in enumerate(self.columns)], dim=1))


class TwoTablesOfOneField(nn.Module):
    """One input that is looked up in two tables of different groups."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.deep = nn.Embedding(40, 4), nn.Embedding(40, 6)
        self.head = nn.Linear(10, 1)

    def forward(self, user: Tensor) -> Tensor:
        return self.head(torch.cat([self.wide(user), self.deep(user)], dim=1))


class ManyTables(nn.Module):
    """Five tables that are added."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(40, 4) for _ in range(5))
        self.head = nn.Linear(4, 1)

    def forward(self, a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor) -> Tensor:
        return self.head(sum(table(ids) for table, ids in zip(self.tables, (a, b, c, d, e), strict=True)))


class ScaledHidden(nn.Module):
    """A hidden layer with batch norm, whose weights belong to the layer before, and a second layer added to it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(40, 4)
        self.left, self.right = nn.Linear(4, 12), nn.Linear(4, 12)
        self.norm, self.head = nn.BatchNorm1d(12), nn.Linear(12, 1)

    def forward(self, user: Tensor) -> Tensor:
        x = self.table(user)
        return self.head(torch.relu(self.norm(self.left(x) + self.right(x))))


def capture_module(module: nn.Module, inputs: int, columns: int = 0) -> Program:
    shape = (4, columns) if columns else (4,)
    return capture(module.eval(), tuple(torch.randint(0, 40, shape) for _ in range(inputs)))


@pytest.mark.parametrize(
    ("module", "inputs", "columns", "labels"),
    [
        (TwoFields(), 2, 0, {"user", "item", "mlp.0"}),
        (SharedTable(), 2, 0, {"items"}),
        (PackedInput(), 1, 2, {"columns.0", "columns.1"}),
        (TwoTablesOfOneField(), 1, 0, {"wide", "deep"}),
        (ManyTables(), 5, 0, {"a + b + 3 more"}),
        (ScaledHidden(), 1, 0, {"user", "left + right"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_groups_are_called_by_fields_and_layers(module: nn.Module, inputs: int, columns: int, labels: set[str]) -> None:
    assert {group.label for group in capture_module(module, inputs, columns).analysis.groups} == labels


def test_equal_labels_are_numbered() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.both = nn.Embedding(40, 4), nn.Linear(4, 12)
            self.first, self.second = nn.Linear(6, 1), nn.Linear(6, 1)

        def forward(self, user: Tensor) -> Tensor:
            one, other = self.both(self.table(user)).relu().chunk(2, dim=1)
            return self.first(one) + self.second(other)

    labels = [group.label for group in capture_module(Halves(), 1).analysis.groups]
    assert labels == ["user", "both", "both #2"]


def test_labels_are_different_and_the_same_in_each_run(recommender: Program) -> None:
    labels = [group.label for group in recommender.analysis.groups]
    assert all(labels)
    assert len(set(labels)) == len(labels)
    assert [group.label for group in analyze(recommender).groups] == labels


def test_labels_name_no_node_or_parameter_that_a_rewrite_inserts(recommender: Program) -> None:
    projected = project_tables(recommender).program
    separated = insert_per_table_projections(projected, find_per_table_projections(projected))
    modules = {name.rpartition(".")[0] for name in recommender.parameters()} | set(recommender.parameters())
    known = modules | {spec.name for spec in recommender.signature.inputs}
    for program in (projected, separated):
        labels = [group.label for group in program.analysis.groups]
        assert len(set(labels)) == len(labels)
        for label in labels:
            plain = label.removeprefix("input of ").removesuffix(", projected").partition(" #")[0]
            names = [name for name in plain.split(" + ") if not name.endswith(" more")]
            assert set(names) <= known, label


def test_a_field_keeps_its_name_when_its_tables_are_joined() -> None:
    class Factors(nn.Module):
        """First and second order of a factorization machine."""

        def __init__(self) -> None:
            super().__init__()
            self.first = nn.ModuleList(nn.Embedding(5000, 1) for _ in range(2))
            self.second = nn.ModuleList(nn.Embedding(5000, 8) for _ in range(2))

        def forward(self, user: Tensor, item: Tensor) -> Tensor:
            one, other = (table(ids) for table, ids in zip(self.second, (user, item), strict=True))
            linear = self.first[0](user) + self.first[1](item)
            return linear.squeeze(1) + (one * other).sum(dim=1)

    program = capture_module(Factors(), 2)
    joined = insert_per_table_projections(program, find_per_table_projections(program))
    tables = {group.label for group in joined.analysis.groups if group.kind == "embedding"}
    assert tables == {"user", "item"}
