"""`Ranking`: the order in which a group's channels are kept, and the loss at each width."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from recprune_export.pruning.rotation.transform import Transform


@dataclass(frozen=True, eq=False)
class Ranking:
    """A ranking of one group of width D.

    `order` lists all positions, best first. `losses[k]`, k = 0 … D, estimates the loss when the first k are kept, in units
    that are comparable across groups if the score has such units; it never rises with k. With a `transform`, the positions
    are those of the transformed channels.
    """

    order: tuple[int, ...]
    losses: tuple[float, ...]
    transform: Transform | None = None

    def loss_at_width(self, width: int) -> float:
        """Return the loss when the best `width` channels are kept."""
        return self.losses[width]

    def scaled(self, factor: float) -> "Ranking":
        """Return the ranking with its losses multiplied by `factor`."""
        return replace(self, losses=tuple(loss * factor for loss in self.losses))


def rank_by(scores: Mapping[str, Tensor]) -> dict[str, Ranking]:
    """Rank by one score for each channel, highest first; the loss is the sum of the removed scores.

    >>> import torch
    >>> rank_by({"g": torch.tensor([1.0, 3.0, 2.0])})["g"]
    Ranking(order=(1, 2, 0), losses=(6.0, 3.0, 1.0, 0.0), transform=None)
    """
    return {name: _rank(values) for name, values in scores.items()}


def _rank(values: Tensor) -> Ranking:
    order = values.argsort(descending=True, stable=True)
    tail = values.double()[order].flip(0).clamp_min(0.0).cumsum(0).flip(0)
    return Ranking(tuple(order.tolist()), (*tail.tolist(), 0.0))
