"""`Ranking`: in which order a group's channels are kept, and what is lost at each width."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from recprune_export.pruning.rotation.transform import Transform


@dataclass(frozen=True, eq=False)
class Ranking:
    """Of one group of width D.

    `order` lists all positions, best first. `losses[k]`, k = 0 … D, estimates what is lost when the first k stay, in units
    that compare across groups where the score has such; it never rises with k. `transform`, where there is one, comes
    before: the positions are those of the transformed channels.
    """

    order: tuple[int, ...]
    losses: tuple[float, ...]
    transform: Transform | None = None

    def loss_at_width(self, width: int) -> float:
        """Return what is lost when the best `width` channels stay."""
        return self.losses[width]


def rank_by(scores: Mapping[str, Tensor]) -> dict[str, Ranking]:
    """Rank by one number for each channel, higher stays; what goes is lost in full.

    >>> import torch
    >>> rank_by({"g": torch.tensor([1.0, 3.0, 2.0])})["g"]
    Ranking(order=(1, 2, 0), losses=(6.0, 3.0, 1.0, 0.0), transform=None)
    """
    return {name: _rank(values) for name, values in scores.items()}


def _rank(values: Tensor) -> Ranking:
    order = values.argsort(descending=True, stable=True)
    tail = values.double()[order].flip(0).clamp_min(0.0).cumsum(0).flip(0)
    return Ranking(tuple(order.tolist()), (*tail.tolist(), 0.0))
