"""Which layers have their zeros in tiles, of how many units, and which units share one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor

from recprune_export.finetuning.tiles import TileLayer, Tiling, assign_units, tile_inputs, unit_scores, unit_sensitivity
from recprune_export.finetuning.zeros import ZeroTarget, tile_budget
from recprune_export.onnx.export import OnnxFile
from recprune_export.onnx.passes.tile_layers import tile_layers
from recprune_export.onnx.tile_cost import tile_ratios
from recprune_export.onnx.tiles import MOST_WORK
from recprune_export.program.program import Program
from recprune_export.pruning.moments import Probe
from recprune_export.settings import Settings

TILES = (32, 64, 128, 256)  # units; larger tiles run faster, smaller ones can choose better
FEWEST = 2  # tiles of a layer: one alone would only leave out inputs
FEWEST_INPUTS = 32
NEAR_BEST = 1.15  # of the time with the fastest tile


@dataclass(frozen=True)
class LayerTiles:
    """How a weight [outputs, inputs] is tiled; `kept` is how many inputs each tile has, before tuning about so many."""

    weight: str
    outputs: int
    inputs: int
    tile: int
    kept: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote."""
        return cls(**values)


@dataclass(frozen=True)
class TileChoice:
    """Layers with tiles, and a sentence that says why there are none where there are none."""

    layers: tuple[LayerTiles, ...] = ()
    tiling: Tiling = ()
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values of what was chosen, without the `tiling`, which tuning alone needs."""
        return {"layers": [layer.to_dict() for layer in self.layers], "reason": self.reason}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        >>> TileChoice.from_dict(TileChoice(reason="too small").to_dict())
        TileChoice(layers=(), tiling=(), reason='too small')
        """
        return cls(tuple(LayerTiles.from_dict(layer) for layer in values["layers"]), reason=str(values["reason"]))

    def as_in(self, program: Program) -> Self:
        """Return the same with the inputs that are left in the weights of `program`."""
        weights = program.parameters()
        found = (
            replace(each, kept=round(int(weights[each.weight].count_nonzero()) / each.outputs)) for each in self.layers
        )
        return replace(self, layers=tuple(found))


def choose_tiles(
    program: Program,
    tables: frozenset[str],
    target: ZeroTarget,
    settings: Settings,
    requests: Sequence[Mapping[str, Tensor]],
    probe: Probe,
) -> TileChoice:
    """Decide for `program`, which is about to get the zeros of `target`; `requests` are calibration data.

    With the pattern "tile" every linear layer that is wide enough gets tiles, with "auto" those which are estimated to
    be no slower than dense for any batch size of the settings.
    """
    if settings.pattern == "element":
        return TileChoice()
    rest = {name: p.detach() for name, p in program.parameters().items() if name not in tables}
    sensitivity = unit_sensitivity(program, requests, probe, settings.seed)
    least = min(TILES) if settings.tile == "auto" else settings.tile
    wide = [
        name
        for name in sensitivity
        if name in rest and len(rest[name]) >= FEWEST * least and rest[name].shape[1] >= FEWEST_INPUTS
    ]
    if not wide:
        return TileChoice(reason=f"no linear layer has {FEWEST * least} units and {FEWEST_INPUTS} inputs")
    kept = _kept(rest, wide, target)
    if not kept:
        return TileChoice(reason="too many weights stay for that; a smaller --structured-share leaves more zeros")
    sizes = {name: _tile(rest[name], k, settings) for name, k in kept.items()}
    chosen = [
        LayerTiles(name, rest[name].shape[0], rest[name].shape[1], tile, kept[name])
        for name, tile in sizes.items()
        if tile is not None
    ]
    if not chosen:
        return TileChoice(reason="at these batch sizes no layer is faster with them")
    return TileChoice(tuple(chosen), tuple(_tile_layer(rest[c.weight], sensitivity[c.weight], c) for c in chosen))


def _kept(rest: Mapping[str, Tensor], wide: Sequence[str], target: ZeroTarget) -> dict[str, int]:
    """How many inputs a tile of each wide layer keeps; layers that would keep most of them are left out."""
    sizes = {name: p.numel() for name, p in rest.items() if p.ndim > 1}
    allowed = target.rest - sum(p.numel() for p in rest.values() if p.ndim < 2)
    shapes = {name: (*rest[name].shape,) for name in wide}
    while shapes:
        for_tiles = tile_budget(sizes, frozenset(shapes), allowed)
        if for_tiles < sum(outputs for outputs, _ in shapes.values()):
            return {}
        kept = tile_inputs(shapes, for_tiles)
        sparse = {name: shape for name, shape in shapes.items() if kept[name] <= MOST_WORK * shape[1]}
        if len(sparse) == len(shapes):
            return kept
        shapes = sparse
    return {}


def _tile(weight: Tensor, k: int, settings: Settings) -> int | None:
    """The smallest tile that is about as fast as any; with "auto", None where dense is faster."""
    outputs, inputs = weight.shape
    candidates = [t for t in TILES if outputs >= FEWEST * t] if settings.tile == "auto" else [settings.tile]
    ratios = {tile: tile_ratios(outputs, inputs, tile, k, settings.batches) for tile in candidates}
    if settings.pattern == "auto":
        ratios = {tile: by_batch for tile, by_batch in ratios.items() if max(by_batch.values()) <= 1.0}
    means = {tile: sum(by_batch.values()) for tile, by_batch in ratios.items()}
    return min((tile for tile, mean in means.items() if mean <= NEAR_BEST * min(means.values())), default=None)


def _tile_layer(weight: Tensor, sensitivity: Tensor, chosen: LayerTiles) -> TileLayer:
    tiles = -(-chosen.outputs // chosen.tile)
    tile_of = assign_units(unit_scores(weight, sensitivity), tiles, chosen.kept)
    return TileLayer(chosen.weight, tile_of, sensitivity)


def tile_notes(choice: TileChoice, file: OnnxFile, settings: Settings) -> tuple[str, ...]:
    """Say which layers have tiles, and which of them the file computes by tiles."""
    if settings.pattern == "element":
        return ()
    if not choice.layers:
        return (f"--pattern {settings.pattern} set no zeros in tiles: {choice.reason}.",)
    served = [name for each in file.rewrites if each.name == tile_layers.__name__ and each.kept for name in each.at]
    parts = [
        f"{each.weight} ({each.outputs} units by {each.tile}, {each.kept} of {each.inputs} inputs each)"
        for each in choice.layers
    ]
    dense = sum(not any(_is_of(name, each.weight) for name in served) for each in choice.layers)
    told = f" {dense} of them run as dense layers: by tiles they are estimated to be no faster." if dense else ""
    return (f"Zeros in tiles: {', '.join(parts)}.{told}",)


def _is_of(name: str, weight: str) -> bool:
    """Whether a weight of the file is that of the program, or the part of it that shared inputs left or took."""
    return name == weight or name.startswith(f"{weight}_part")
