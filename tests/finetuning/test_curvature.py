"""The curvature of weights is that of the loss, and zeros go where it says that least is lost."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from recprune_export.finetuning import NonZeroTarget, compute_masks, weight_curvature
from recprune_export.program import Program
from recprune_export.program.capture import capture

Batch = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]


def probe(response: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
    """Of a squared error: signs by chance."""
    (answer,) = response.values()
    return (answer * (torch.randint(2, answer.shape, generator=generator) * 2 - 1)).sum()


class Sum(nn.Module):
    def __init__(self, rows: int) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(rows, 4), nn.Linear(4, 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.layer(self.table(ids)).squeeze(1)  # type: ignore[no-any-return]


def program(rows: int = 50) -> Program:
    torch.manual_seed(0)
    return capture(Sum(rows), (torch.tensor([0, 1, 2]),))


def batches(seen: Tensor) -> list[Batch]:
    return [({"ids": ids}, {}) for ids in seen.split(25)]


def test_of_a_linear_layer_it_is_the_second_moment_of_what_it_reads() -> None:
    model, ids = program(), torch.arange(50).repeat(200)
    found = weight_curvature(model, frozenset({"table.weight"}), batches(ids[torch.randperm(len(ids))]), probe)
    expected = len(ids) * model.parameters()["table.weight"].detach().square().mean(0)
    torch.testing.assert_close(found["layer.weight"][0], expected, rtol=0.2, atol=0.0)


def test_a_row_counts_for_as_much_as_it_is_asked_for() -> None:
    ids = torch.cat([torch.zeros(900, dtype=torch.int64), torch.ones(100, dtype=torch.int64)])
    model = program()
    found = weight_curvature(model, frozenset({"table.weight"}), [({"ids": i[None]}, {}) for i in ids], probe)
    often, seldom, never = (float(found["table.weight"][row].sum()) for row in (0, 1, 2))
    assert often / seldom > 5.0
    assert seldom > never > 0.0
    columns = found["table.weight"][:].sum(0)
    torch.testing.assert_close(
        columns / columns.sum(), (w := model.parameters()["layer.weight"].detach()[0].square()) / w.sum()
    )


def test_a_table_that_is_not_only_looked_up_gives_the_same() -> None:
    class Twice(Sum):
        def forward(self, ids: Tensor) -> Tensor:
            return super().forward(ids) + 0.0 * self.table.weight.sum()

    torch.manual_seed(0)
    whole = capture(Twice(50), (torch.tensor([0, 1, 2]),))
    found = [
        weight_curvature(p, frozenset({"table.weight"}), batches(torch.arange(50)), probe) for p in (program(), whole)
    ]
    torch.testing.assert_close(found[0]["table.weight"][:], found[1]["table.weight"][:])


def test_zeros_go_where_least_is_lost() -> None:
    model = program()
    tables = frozenset({"table.weight"})
    ids = torch.randint(10, (500,))  # of 50
    curvature = weight_curvature(model, tables, batches(ids), probe)
    masks = compute_masks(model, tables, NonZeroTarget(tables=100, rest=5), curvature)
    kept = masks["table.weight"]
    assert int(kept.sum()) == 100
    lost = model.parameters()["table.weight"].detach().square() * curvature["table.weight"][:]
    assert float(lost[kept].min()) >= float(lost[~kept].max())
    assert kept[:10].float().mean() > kept[10:].float().mean()
    by_magnitude = compute_masks(model, tables, NonZeroTarget(tables=100, rest=5))
    assert not torch.equal(by_magnitude["table.weight"], kept)


def test_a_table_that_is_frozen_has_the_same_curvature_and_stays_frozen() -> None:
    tables, model = frozenset({"table.weight"}), program()
    expected = weight_curvature(model, tables, batches(torch.arange(50)), probe)
    model.parameters()["table.weight"].requires_grad_(False)
    found = weight_curvature(model, tables, batches(torch.arange(50)), probe)
    for name, values in expected.items():
        torch.testing.assert_close(found[name][:], values[:])
    assert not model.parameters()["table.weight"].requires_grad
    assert set(compute_masks(model, tables, NonZeroTarget(20, 5), found)) == {"table.weight"}


def test_curvature_has_the_precision_of_the_weights() -> None:
    torch.manual_seed(0)
    model = capture(Sum(50).double(), (torch.tensor([0, 1, 2]),))
    found = weight_curvature(model, frozenset({"table.weight"}), batches(torch.arange(50)), probe)
    assert {values.dtype for values in found.values()} == {torch.float64}


class FieldAware(nn.Module):
    """Tables that are parameters: a number for each id, and a vector for each id and field."""

    def __init__(self) -> None:
        super().__init__()
        self.bias, self.vectors = nn.Parameter(torch.randn(50)), nn.Parameter(torch.randn(50, 2, 4))

    def forward(self, ids: Tensor) -> Tensor:
        first, second = self.vectors[ids].unbind(1)
        return (first * second).sum(-1) + self.bias[ids]


def test_tables_of_numbers_and_of_several_vectors() -> None:
    torch.manual_seed(0)
    model = capture(FieldAware(), (torch.tensor([0, 1, 2]),))
    tables = frozenset({"bias", "vectors"})
    ids = torch.cat([torch.zeros(900, dtype=torch.int64), torch.ones(100, dtype=torch.int64)])
    found = weight_curvature(model, tables, [({"ids": i[None]}, {}) for i in ids], probe)
    assert {name: tuple(h.shape) for name, h in found.items()} == {"bias": (50,), "vectors": (50, 2, 4)}
    for h in found.values():
        often, seldom, never = (float(h[row].sum()) for row in (0, 1, 2))
        assert often > seldom > never > 0.0
    masks = compute_masks(model, tables, NonZeroTarget(tables=100, rest=0), found)
    assert sum(int(mask.sum()) for mask in masks.values()) == 100


def test_what_has_no_slope_does_not_spoil_the_rest() -> None:
    class Spread(Sum):
        def forward(self, ids: Tensor) -> Tensor:
            """The root of what is zero for id 0."""
            return super().forward(ids) + (self.table(ids)[:, 0] * (ids > 0)).square().sqrt()

    torch.manual_seed(0)
    model = capture(Spread(50), (torch.tensor([0, 1, 2]),))
    found = weight_curvature(model, frozenset({"table.weight"}), batches(torch.arange(50)), probe)
    assert all(h[:].isfinite().all() for h in found.values())
    assert float(found["layer.weight"].min()) > 0.0


def test_of_some_parameters_alone_it_is_the_same() -> None:
    tables = frozenset({"table.weight"})
    whole = weight_curvature(program(), tables, batches(torch.arange(50)), probe)
    for name in ("table.weight", "layer.weight"):
        alone = weight_curvature(program(), tables, batches(torch.arange(50)), probe, names={name})
        assert alone.keys() == {name}
        torch.testing.assert_close(alone[name][:], whole[name][:], rtol=0.0, atol=0.0)
    assert not weight_curvature(program(), tables, batches(torch.arange(50)), probe, names=())
