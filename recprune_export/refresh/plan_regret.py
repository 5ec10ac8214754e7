"""Whether a plan is still a good one: what it loses on other rows, beside the best choice of the same widths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from recprune_export.codec import ToDictMixin, json_name
from recprune_export.pruning.importance.output_error import GroupStatistics, gather_group_statistics, rank_group
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.importance.scores.names import OUTPUT_ERROR
from recprune_export.pruning.importance.scores.registry import rank_channels
from recprune_export.pruning.importance.scores.score_inputs import ScoreInputs
from recprune_export.pruning.plan import GroupPlan, Plan
from recprune_export.pruning.rotation.transform import Transform
from recprune_export.pruning.statistics.moments import TINY, Moments

RIDGE = 1e-8  # of the mean variance


@dataclass(frozen=True)
class GroupRegret(ToDictMixin):
    """One group of a plan, `pruned_width` of `width` channels, on new rows.

    `loss`, `optimal_loss` and `total` are what the score says is lost by the plan, by its own choice of as many channels, and
    without any channel. `overlap`: how many of the kept channels it would choose again; None after a rotation, which mixes them.
    """

    ENCODED = ("group", "kind", "width", "pruned_width", "overlap", "loss", "optimal_loss", "total", "regret")
    PROPERTY_NAMES: ClassVar[Mapping[str, str]] = {"regret": "extra"}

    group: str
    kind: str
    width: int
    pruned_width: int = field(metadata=json_name("kept"))
    overlap: int | None = field(metadata=json_name("same"))
    loss: float = field(metadata=json_name("lost"))
    optimal_loss: float = field(metadata=json_name("least"))
    total: float

    @property
    def regret(self) -> float:
        """What the plan loses beyond the best choice; where choosing is greedy the plan may be the better one, and this 0."""
        return max(self.loss - self.optimal_loss, 0.0)


def compute_regrets(plan: Plan, inputs: ScoreInputs) -> tuple[GroupRegret, ...]:
    """Judge by the score of `plan` every group that it makes smaller; `inputs` are of the program after its loosening.

    Raises `PruningError` where the plan is of another program, `UsageError` where its score is not known.
    """
    plan.removed(inputs.program.analysis)
    smaller = [part for part in plan.groups if len(part.keep) < part.width]
    if plan.score != OUTPUT_ERROR:
        rankings = rank_channels(plan.score, inputs)
        return tuple(_compute_regret_by_score(part, rankings[part.group]) for part in smaller)
    evidence = gather_group_statistics(inputs.program, inputs.batches, inputs.probe, inputs.seed)
    return tuple(_compute_regret_by_error(part, evidence[part.group]) for part in smaller if part.group in evidence)


def sum_regret(regrets: Sequence[GroupRegret]) -> float:
    """Return what the plan loses beyond the best choice over all groups, by a score whose losses can be added up."""
    return sum(s.regret for s in regrets)


def compute_mean_relative_regret(regrets: Sequence[GroupRegret]) -> float:
    """Return the same for any other score: the share of all that a group holds, in the mean over groups."""
    return sum(s.regret / max(s.total, TINY) for s in regrets) / max(len(regrets), 1)


def _compute_regret_by_score(part: GroupPlan, ranking: Ranking) -> GroupRegret:
    """What a channel is worth is the loss that it saves at its place in the order."""
    steps = {c: ranking.losses[place] - ranking.losses[place + 1] for place, c in enumerate(ranking.order)}
    lost = sum(steps[c] for c in range(part.width) if c not in set(part.keep))
    return _make_regret(part, ranking, lost, _count_overlap(part, ranking))


def _compute_regret_by_error(part: GroupPlan, evidence: GroupStatistics) -> GroupRegret:
    ranking = rank_group(evidence.moments, evidence.rotatable, evidence.consumers)
    if part.transform is not None:
        return _make_regret(part, ranking, _lost_rotated(part, evidence.moments, part.transform), None)
    if evidence.consumers.reconstructible:
        lost = _lost_refitted(part, evidence.moments)
    else:
        alone = evidence.moments.values.diagonal() * evidence.moments.gradients.diagonal()
        lost = float(alone[_dropped(part)].sum())
    return _make_regret(part, ranking, lost, None if ranking.transform else _count_overlap(part, ranking))


def _make_regret(part: GroupPlan, ranking: Ranking, lost: float, same: int | None) -> GroupRegret:
    kept = len(part.keep)
    return GroupRegret(
        part.group,
        part.kind,
        part.width,
        kept,
        same,
        lost,
        ranking.loss_at_width(kept),
        max(ranking.loss_at_width(0), lost),
    )


def _count_overlap(part: GroupPlan, ranking: Ranking) -> int:
    return len(set(part.keep) & set(ranking.order[: len(part.keep)]))


def _dropped(part: GroupPlan) -> Tensor:
    return torch.tensor(sorted(set(range(part.width)) - set(part.keep)), dtype=torch.int64)


def _lost_rotated(part: GroupPlan, moments: Moments, transform: Transform) -> float:
    """tr(Σ_dropped · M_dropped) after the transform: Σ becomes Aᵀ Σ A and M becomes A⁻¹ M A⁻ᵀ."""
    out, back = transform.matrix_for_side(1), transform.matrix_for_side(-1)  # A, A⁻ᵀ; [D, D]
    dropped = _dropped(part)
    values = out[:, dropped].T @ moments.values @ out[:, dropped]
    gradients = back[:, dropped].T @ moments.gradients @ back[:, dropped]
    return float((values * gradients).sum())


def _lost_refitted(part: GroupPlan, moments: Moments) -> float:
    """tr(R · M), R the covariance that the kept channels cannot predict."""
    covariance, keep = moments.covariance, torch.tensor(part.keep)
    ridge = RIDGE * covariance.diagonal().mean().clamp_min(TINY) * torch.eye(len(keep), dtype=covariance.dtype)
    known = torch.linalg.solve(covariance[keep][:, keep] + ridge, covariance[keep])  # [kept, D]
    residual = covariance - covariance[:, keep] @ known
    return max(float((residual * moments.gradients).sum()), 0.0)
