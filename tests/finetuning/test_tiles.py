"""Masks in tiles: what they keep, and that units share a tile with their like."""

import pytest
import torch
from torch import nn

from recprune_export.finetuning.finetune import Schedule, finetune
from recprune_export.finetuning.objective import make_objective
from recprune_export.finetuning.task import Recipe, SampledRequests
from recprune_export.finetuning.tiles import (
    TileLayer,
    Tiling,
    assign_units,
    tile_inputs,
    tile_masks,
    unit_scores,
    unit_sensitivity,
)
from recprune_export.finetuning.zeros import ZeroTarget, parameter_counts, zero_masks
from recprune_export.program.capture import capture
from recprune_export.program.drawing import draw_request
from recprune_export.program.program import Program

TABLES = frozenset({"table.weight"})
FIRST, SECOND, HEAD = "mlp.0.weight", "mlp.2.weight", "mlp.4.weight"


class Scorer(nn.Module):
    """A table, two layers, of which the second has units that fill no whole number of tiles, and a logit."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gain = nn.Embedding(20, 12), nn.Linear(3, 3)
        self.mlp = nn.Sequential(nn.Linear(15, 48), nn.ReLU(), nn.Linear(48, 50), nn.ReLU(), nn.Linear(50, 1))

    def forward(self, user: torch.Tensor, several: torch.Tensor) -> dict[str, torch.Tensor]:
        summed = self.gain(several).sum(1)  # a layer of values with three axes
        return {"click": self.mlp(torch.cat([self.table(user), summed], 1)).squeeze(1)}


def program(seed: int = 0) -> Program:
    torch.manual_seed(seed)
    return capture(Scorer(), (torch.tensor([0, 1, 2]), torch.randn(3, 4, 3)))


def requests(of: Program) -> list[dict[str, torch.Tensor]]:
    return [{name: torch.from_numpy(v) for name, v in draw_request(of.signature, 64, seed=1).items()}]


def sensitivity_of(of: Program) -> dict[str, torch.Tensor]:
    return unit_sensitivity(of, requests(of), make_objective(of, ()).probe)


def tiling_of(of: Program, tiles: int = 3, k: int = 5) -> Tiling:
    felt, weights = sensitivity_of(of), of.parameters()
    return tuple(
        TileLayer(name, assign_units(unit_scores(weights[name], felt[name]), tiles, k), felt[name])
        for name in (FIRST, SECOND)
    )


def inputs_of_tiles(mask: torch.Tensor, layer: TileLayer) -> list[int]:
    """How many inputs each tile keeps; its units keep the same."""
    found = []
    for tile in range(layer.tiles):
        own = mask[layer.tile_of == tile]
        assert (own == own[0]).all()
        found.append(int(own[0].sum()))
    return found


def test_sensitivity_is_the_curvature_along_each_unit() -> None:
    of = program()
    felt = sensitivity_of(of)
    assert set(felt) == {FIRST, SECOND, HEAD}  # not the layer of three axes
    louder, silent = program(), program()
    with torch.no_grad():
        louder.parameters()[HEAD][0, 7] *= 2.0
        silent.parameters()[HEAD][0, 7] = 0.0
    before, after = (of[SECOND][7] / (of[SECOND].sum() - of[SECOND][7]) for of in (felt, sensitivity_of(louder)))
    assert float(after / before) == pytest.approx(4.0, rel=0.05)
    assert float(sensitivity_of(silent)[SECOND][7]) == 0.0


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_every_tile_of_a_layer_keeps_as_many_inputs_and_the_budget_holds(share: float) -> None:
    of = program()
    tiling, weights = tiling_of(of), of.parameters()
    sizes = sum(weights[layer.weight].numel() for layer in tiling)
    masks = tile_masks(weights, tiling, int(share * sizes))
    for layer in tiling:
        assert len(set(inputs_of_tiles(masks[layer.weight], layer))) == 1
    kept = sum(int(mask.sum()) for mask in masks.values())
    assert share * sizes - 50 < kept <= share * sizes


def test_small_layers_keep_a_larger_share() -> None:
    kept = tile_inputs({"wide": (400, 400), "narrow": (40, 50)}, 16_200)
    assert kept["narrow"] / 50 > 2 * kept["wide"] / 400
    assert 16_200 - 400 < 400 * kept["wide"] + 40 * kept["narrow"] <= 16_200
    assert tile_inputs({"wide": (400, 400), "narrow": (40, 50)}, 10**6) == {"wide": 400, "narrow": 50}


def test_the_best_inputs_stay() -> None:
    of = program()
    (layer, _), weight = tiling_of(of), of.parameters()[FIRST].detach()
    scores, mask = layer.scores(weight), layer.mask(weight, 4)
    for tile in range(layer.tiles):
        kept = mask[layer.tile_of == tile][0]
        assert scores[tile][kept].min() >= scores[tile][~kept].max()


def test_units_that_weigh_the_same_inputs_share_a_tile() -> None:
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randperm(48, generator=generator) % 4
    supports = torch.rand(4, 40, generator=generator).argsort(1) < 8
    scores = torch.rand(48, 40, generator=generator) * (0.05 + supports[kinds])
    tile_of = assign_units(scores, tiles=4, k=8)
    assert all(len(set(tile_of[kinds == kind].tolist())) == 1 for kind in range(4))


@pytest.mark.parametrize(("units", "tiles"), [(48, 3), (50, 3), (50, 7), (9, 1)])
def test_tiles_are_even_and_hold_more_than_units_in_order(units: int, tiles: int) -> None:
    scores = torch.rand(units, 30, generator=torch.Generator().manual_seed(units)) ** 4
    tile_of = assign_units(scores, tiles, k=6)
    sizes = torch.bincount(tile_of, minlength=tiles)
    assert sizes.max() - sizes.min() <= 1

    def held(of: torch.Tensor) -> float:
        return float(torch.zeros(tiles, 30).index_add_(0, of, scores).topk(6, dim=1).values.sum())

    assert held(tile_of) >= held(torch.arange(units) * tiles // units)
    assert torch.equal(tile_of, assign_units(scores, tiles, k=6))


def test_small_matrices_and_vectors_stay_whole_beside_tiles() -> None:
    of = program()
    target = ZeroTarget(*(n // 4 for n in parameter_counts(of, TABLES)))
    masks = zero_masks(of, TABLES, target, tiling=tiling_of(of))
    assert masks[HEAD].all()
    assert masks["mlp.0.bias"].all()
    assert int(masks["table.weight"].sum()) == target.tables
    rest = sum(int(mask.sum()) for name, mask in masks.items() if name not in TABLES)
    assert target.rest - 50 < rest <= target.rest


def test_too_few_for_one_input_in_each_tile_are_set_element_by_element() -> None:
    of = program()
    masks = zero_masks(of, TABLES, ZeroTarget(240, 200), tiling=tiling_of(of))
    assert sum(int(mask.sum()) for name, mask in masks.items() if name not in TABLES) == 200


def tuned(gradual: bool, epochs: int) -> tuple[Program, Tiling]:
    student, teacher = program(1), program(2)
    task = SampledRequests(teacher, make_objective(teacher, ()), Recipe(epochs, 1e-2, 16))
    tiling = tiling_of(student)
    target = ZeroTarget(100, 900)
    finetune(student, teacher, task, TABLES, target, Schedule(epochs, 1e-2, gradual, seed=0), tiling=tiling)
    return student, tiling


@pytest.mark.parametrize(("gradual", "epochs"), [(True, 1), (False, 1), (False, 0)])
def test_tuning_holds_the_tiles(gradual: bool, epochs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recprune_export.finetuning.task.SAMPLED_STEPS", 40)
    student, tiling = tuned(gradual, epochs)
    weights = student.parameters()
    for layer in tiling:
        assert len(set(inputs_of_tiles(weights[layer.weight].detach() != 0, layer))) == 1
    assert 850 < sum(int(p.count_nonzero()) for name, p in weights.items() if name not in TABLES) <= 900
    again = tuned(gradual, epochs)[0].parameters()
    assert all(torch.equal(weights[name], again[name]) for name in weights)
