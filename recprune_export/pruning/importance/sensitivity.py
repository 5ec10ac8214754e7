"""Sensitivity of each group by each score, the agreement of the scores, and the output error at smaller widths."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recprune_export.channels.groups import Group
from recprune_export.codec import ToDictMixin
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.importance.scores.registry import SCORES
from recprune_export.pruning.importance.scores.score_inputs import ScoreInputs

SHARES = (2, 4, 8)  # one of this number of channels is kept


@dataclass(frozen=True)
class GroupSensitivity:
    """Sensitivity of one group of width D.

    `losses[k]`, k = 0 … D: the output error when the best k channels are kept. `quantiles` has for each score the values of
    the channels from the largest down, at even steps, as fractions of the largest. `agreement[one, other]` is Spearman's
    rank correlation of two scores; a score that rotates the channels has no agreement.
    """

    group: str
    label: str
    kind: str
    width: int
    rotated: bool
    losses: tuple[float, ...]
    quantiles: Mapping[str, tuple[float, ...]]
    agreement: Mapping[tuple[str, str], float]

    def width_at(self, share: int) -> int:
        """Return the width when one of `share` channels is kept."""
        return max(1, round(self.width / share))

    def relative_loss(self, share: int) -> float:
        """Return the loss at that width, as a fraction of the loss without any channel."""
        return self.losses[self.width_at(share)] / self.losses[0] if self.losses[0] > 0.0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        scores = {
            name: {
                "quantiles": list(quantiles),
                "agreement": {b: rho for (a, b), rho in self.agreement.items() if a == name},
            }
            for name, quantiles in self.quantiles.items()
        }
        lost = {f"1/{share}": {"width": self.width_at(share), "lost": self.relative_loss(share)} for share in SHARES}
        named = {
            "group": self.group,
            "label": self.label,
            "kind": self.kind,
            "width": self.width,
            "rotated": self.rotated,
        }
        return {**named, "losses": list(self.losses), "lost": lost, "scores": scores}


@dataclass(frozen=True)
class Sensitivity(ToDictMixin):
    """All groups of a program."""

    groups: tuple[GroupSensitivity, ...]

    def agreement(self, one: str, other: str) -> float | None:
        """Return the mean rank correlation of two scores, weighted by the groups' widths; None if there is none."""
        correlations = [(g.agreement[one, other], g.width) for g in self.groups if (one, other) in g.agreement]
        return (
            sum(rho * width for rho, width in correlations) / sum(width for _, width in correlations)
            if correlations
            else None
        )


def measure_sensitivity(inputs: ScoreInputs) -> Sensitivity:
    """Rank the channels of every group by every score, and compare the rankings."""
    rankings = {name: score(inputs) for name, score in SCORES.items()}
    return Sensitivity(
        tuple(
            _summarize_group(group, {name: by_group[group.name] for name, by_group in rankings.items()})
            for group in inputs.program.analysis.groups
        )
    )


def _summarize_group(group: Group, rankings: Mapping[str, Ranking]) -> GroupSensitivity:
    min_channels = 3  # channels for which a rank correlation is meaningful
    output_error = rankings[OUTPUT_ERROR]
    unrotated = {score: r for score, r in rankings.items() if r.transform is None and len(r.order) >= min_channels}
    return GroupSensitivity(
        group=group.name,
        label=group.label,
        kind=group.kind,
        width=len(output_error.order),
        rotated=output_error.transform is not None,
        losses=output_error.losses,
        quantiles={score: _quantiles(ranking) for score, ranking in rankings.items()},
        agreement={
            (a, b): spearman(unrotated[a].order, unrotated[b].order) for a in unrotated for b in unrotated if a != b
        },
    )


def spearman(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Return the rank correlation of two orders of the same channels: 1 - 6 Σ d² / (n (n² - 1)), Spearman 1904.

    >>> spearman((0, 1, 2), (0, 1, 2)), spearman((0, 1, 2), (2, 1, 0))
    (1.0, -1.0)
    """
    ranks = [torch.tensor(order).argsort().double() for order in (one, other)]
    n = len(one)
    return float(1.0 - 6.0 * (ranks[0] - ranks[1]).square().sum() / (n * (n * n - 1)))


def _quantiles(ranking: Ranking) -> tuple[float, ...]:
    count = 13
    values = _values(ranking).sort(descending=True).values
    if not len(values) or float(values[0]) <= 0.0:
        return (0.0,) * count
    at = torch.linspace(0.0, 1.0, count, dtype=torch.float64)
    return tuple(torch.quantile(values / values[0], 1.0 - at).tolist())


def _values(ranking: Ranking) -> Tensor:
    """Return the loss of each channel, in the order of the ranking, [D]."""
    losses = torch.tensor(ranking.losses, dtype=torch.float64)
    return (losses[:-1] - losses[1:]).clamp_min(0.0)
