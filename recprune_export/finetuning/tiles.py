"""Tile sparsity: units of a layer in groups, each of which keeps its own subset of the inputs, the same number in each.

O outputs, I inputs, T tiles, k inputs that a tile keeps. Each tile is a small dense matrix, so a layer is one batched
product in ONNX Runtime, and its zeros save time (`onnx/passes/tile_layers.py`). Units whose rows weigh the same inputs
share a tile: to choose the order of units costs nothing, for the layer that reads them absorbs it at export.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.program.nodes import argument
from recprune_export.program.program import Program
from recprune_export.pruning.moments import Probe

Request = Mapping[str, Tensor]

ROUNDS = 12  # of choosing inputs for tiles and tiles for units
POWER = 24  # iterations, for a direction along which rows differ most
TINY = 1e-30
HALVINGS = 60


@dataclass(frozen=True)
class TileLayer:
    """A weight [O, I] whose zeros fall in tiles: the tile of each unit, [O], and how much the answers feel it, [O]."""

    weight: str
    tile_of: Tensor
    sensitivity: Tensor

    @property
    def tiles(self) -> int:
        """T."""
        return int(self.tile_of.max()) + 1

    def scores(self, weight: Tensor) -> Tensor:
        """Return what each input means to each tile, [T, I]: Σ of w²·E[g²] over its units."""
        own = unit_scores(weight, self.sensitivity)
        return torch.zeros(self.tiles, weight.shape[1]).index_add_(0, self.tile_of, own)

    def mask(self, weight: Tensor, k: int) -> Tensor:
        """Return what stays, [O, I], where each tile keeps its k best inputs."""
        best = self.scores(weight).sort(dim=1, descending=True, stable=True).indices[:, :k]
        kept = torch.zeros(self.tiles, weight.shape[1], dtype=torch.bool).scatter_(1, best, True)
        return kept[self.tile_of]


Tiling = tuple[TileLayer, ...]
NO_TILES: Tiling = ()


def unit_scores(weight: Tensor, sensitivity: Tensor) -> Tensor:
    """Return w²·E[g²] of each weight, [O, I]; what is fed through it is left out, for that chooses worse (docs/log.md)."""
    return weight.detach().float().square() * sensitivity[:, None]


def tile_masks(weights: Mapping[str, Tensor], tiling: Tiling, allowed: int) -> dict[str, Tensor]:
    """Return masks of the tiled weights with fewer than `allowed` non-zeros in all of them together.

    One for each layer is left: where a row of ones carries biases, the file has a weight that the program does not have.
    """
    shapes = {layer.weight: (*weights[layer.weight].shape,) for layer in tiling}
    kept = tile_inputs(shapes, allowed - len(tiling))
    return {layer.weight: layer.mask(weights[layer.weight], kept[layer.weight]) for layer in tiling}


def tile_inputs(shapes: Mapping[str, tuple[int, ...]], allowed: int) -> dict[str, int]:
    """Return k of each layer [O, I], at least one, so that all together hold at most `allowed` weights.

    A layer keeps weights in proportion to O + I, small layers a larger share than large ones (Mocanu et al. 2018,
    "Scalable training of artificial neural networks with adaptive sparse connectivity", the Erdős–Rényi rule).

    >>> tile_inputs({"wide": (100, 100), "narrow": (50, 20)}, 2700)
    {'wide': 20, 'narrow': 14}
    """

    def wanted(scale: float) -> dict[str, float]:
        return {name: min(max(1.0, scale * (o + i) / o), i) for name, (o, i) in shapes.items()}

    def size(kept: Mapping[str, float]) -> int:
        return sum(int(kept[name]) * o for name, (o, _) in shapes.items())

    low, high = 0.0, float(max(o * i for o, i in shapes.values()))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if size(wanted(middle)) <= allowed else (low, middle)
    exact = wanted(low)
    kept = {name: int(k) for name, k in exact.items()}
    for name in sorted(kept, key=lambda name: kept[name] - exact[name]):  # what rounding left
        outputs, inputs = shapes[name]
        if kept[name] < inputs and size(kept) + outputs <= allowed:
            kept[name] += 1
    return kept


def assign_units(scores: Tensor, tiles: int, k: int) -> Tensor:
    """Return the tile of each unit, [O], so that the k best inputs of the tiles hold much of the scores [O, I].

    Tiles differ in size by one unit at most. Rows are divided in halves along the direction in which they differ most,
    then inputs are chosen for the tiles and tiles for the units in turns, as long as that is better. The same scores give
    the same tiles.

    >>> assign_units(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0], [0.0, 3.0]]), tiles=2, k=1).tolist() in (
    ...     [0, 1, 0, 1], [1, 0, 1, 0])
    True
    """
    sizes = _even(len(scores), tiles)
    best = _divide(scores.sqrt(), sizes)
    held = _held(scores, best, tiles, k)
    for _ in range(ROUNDS):
        chosen = _sums(scores, best, tiles).topk(k, dim=1).indices
        gains = scores @ torch.zeros(tiles, scores.shape[1]).scatter_(1, chosen, 1.0).T
        other = _balanced(gains, sizes)
        if (better := _held(scores, other, tiles, k)) <= held:
            break
        best, held = other, better
    return best


def _even(units: int, tiles: int) -> list[int]:
    return [units // tiles + (tile < units % tiles) for tile in range(tiles)]


def _sums(scores: Tensor, tile_of: Tensor, tiles: int) -> Tensor:
    return torch.zeros(tiles, scores.shape[1]).index_add_(0, tile_of, scores)


def _held(scores: Tensor, tile_of: Tensor, tiles: int, k: int) -> float:
    return float(_sums(scores, tile_of, tiles).topk(k, dim=1).values.double().sum())


def _divide(rows: Tensor, sizes: Sequence[int]) -> Tensor:
    """Give rows to tiles of these sizes by halving, along the first principal direction."""
    tile_of = torch.zeros(len(rows), dtype=torch.int64)

    def halve(members: Tensor, first: int, last: int) -> None:
        if last - first == 1:
            tile_of[members] = first
            return
        middle = (first + last) // 2
        order = members[_along(rows[members]).argsort(stable=True)]
        left = sum(sizes[first:middle])
        halve(order[:left], first, middle)
        halve(order[left:], middle, last)

    halve(torch.arange(len(rows)), 0, len(sizes))
    return tile_of


def _along(rows: Tensor) -> Tensor:
    """Where each row lies along the direction in which they vary most, by power iteration."""
    central = rows - rows.mean(0)
    direction = central[central.square().sum(1).argmax()]
    for _ in range(POWER):
        direction = central.T @ (central @ direction)
        direction = direction / direction.norm().clamp_min(TINY)
    return central @ direction


def _balanced(gains: Tensor, sizes: Sequence[int]) -> Tensor:
    """Give each unit the tile of most gain that has room, those first that would lose most without it. `gains`: [O, T]."""
    if gains.shape[1] == 1:
        return torch.zeros(len(gains), dtype=torch.int64)
    top = gains.topk(2, dim=1).values
    room, tile_of = list(sizes), torch.zeros(len(gains), dtype=torch.int64)
    wishes = gains.argsort(dim=1, descending=True, stable=True).tolist()
    for unit in (top[:, 0] - top[:, 1]).argsort(descending=True, stable=True).tolist():
        tile = next(tile for tile in wishes[unit] if room[tile])
        room[tile] -= 1
        tile_of[unit] = tile
    return tile_of


def unit_sensitivity(program: Program, requests: Sequence[Request], probe: Probe, seed: int = 0) -> dict[str, Tensor]:
    """Return E[g²] of the outputs, [O], of every linear layer of values with two axes that alone reads its weight.

    g is the gradient of `probe`, so that E[g²] is the curvature of the loss along the output of a unit. Relative to the
    mean of the layer.
    """
    watch = _Outputs(program)
    generator = torch.Generator().manual_seed(seed)
    sums: dict[str, Tensor] = {}
    for request in requests:
        for name, gradient in watch.gradients(request, probe, generator).items():
            sums[name] = sums.get(name, torch.zeros(())) + gradient.double().square().sum(0)
    return {name: (total / total.mean().clamp_min(TINY)).float() for name, total in sums.items()}


class _Outputs(fx.Interpreter):
    """Runs a program and keeps what its linear layers put out."""

    def __init__(self, program: Program) -> None:
        super().__init__(program.module)
        self._signature = program.signature
        users: dict[str, list[fx.Node]] = {}
        for node in program.module.graph.nodes:
            if node.op == "get_attr":
                users.setdefault(str(node.target), []).extend(node.users)
        self._weight_of = {
            nodes[0]: name for name, nodes in users.items() if len(nodes) == 1 and _multiplies(nodes[0], name)
        }
        self._values: dict[str, Tensor] = {}

    def gradients(self, request: Request, probe: Probe, generator: torch.Generator) -> dict[str, Tensor]:
        """Return the gradient of each layer's outputs, [B, O]; zero where the answers do not depend on them."""
        self._values = {}
        with torch.enable_grad():
            answers = self.run(*(request[i.name] for i in self._signature.inputs))
            response = {o.name: a for o, a in zip(self._signature.outputs, answers, strict=True)}
            found = torch.autograd.grad(probe(response, generator), list(self._values.values()), allow_unused=True)
        pairs = zip(self._values.items(), found, strict=True)
        return {name: torch.zeros_like(value) if g is None else g for (name, value), g in pairs}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        name = self._weight_of.get(n)
        if name is not None and value.ndim == 2:
            if not value.requires_grad:  # frozen weights
                value = value.detach().requires_grad_()
            self._values[name] = value
        return value


def _multiplies(node: fx.Node, name: str) -> bool:
    weight = argument(node, "weight") if node.target is torch.ops.aten.linear.default else None
    return isinstance(weight, fx.Node) and str(weight.target) == name
