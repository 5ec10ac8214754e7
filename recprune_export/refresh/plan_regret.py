"""Compare the loss of a plan on new rows with that of the best plan of the same widths."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recprune_export.codec import ToDictMixin
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

    `loss`, `optimal_loss` and `total` are the losses that the score predicts for the plan, for the best choice of the same number of
    channels, and without any channel. `overlap` is the number of channels that would be chosen again; None after a rotation, which mixes
    them.
    """

    ENCODED = ("group", "label", "kind", "width", "pruned_width", "overlap", "loss", "optimal_loss", "total", "regret")

    group: str
    kind: str
    width: int
    pruned_width: int
    overlap: int | None
    loss: float
    optimal_loss: float
    total: float
    label: str = ""

    @property
    def regret(self) -> float:
        """The loss in excess of the best plan, at least 0: a greedy selection may be worse than the plan."""
        return max(self.loss - self.optimal_loss, 0.0)


def compute_regrets(plan: Plan, inputs: ScoreInputs) -> tuple[GroupRegret, ...]:
    """Judge every group that `plan` makes narrower by its score; `inputs` are of the program with its projections.

    Raises `PruningError` if the plan belongs to another program, `UsageError` if its score is unknown.
    """
    analysis = inputs.program.analysis
    plan.removed(analysis)
    smaller = [group_plan for group_plan in plan.groups if len(group_plan.keep) < group_plan.width]
    if plan.score != OUTPUT_ERROR:
        rankings = rank_channels(plan.score, inputs)
        regrets = [_compute_regret_by_score(group_plan, rankings[group_plan.group]) for group_plan in smaller]
    else:
        evidence = gather_group_statistics(inputs.program, inputs.batches, inputs.probe, inputs.seed)
        regrets = [
            _compute_regret_by_error(group_plan, evidence[group_plan.group])
            for group_plan in smaller
            if group_plan.group in evidence
        ]
    return tuple(replace(regret, label=analysis.group(regret.group).label) for regret in regrets)


def sum_regret(regrets: Sequence[GroupRegret]) -> float:
    """Return the regret over all groups, by a score whose losses can be added."""
    return sum(s.regret for s in regrets)


def compute_mean_relative_regret(regrets: Sequence[GroupRegret]) -> float:
    """Return the mean regret over groups, relative to the total of each, for any other score."""
    return sum(s.regret / max(s.total, TINY) for s in regrets) / max(len(regrets), 1)


def compute_loss(group_plan: GroupPlan, statistics: GroupStatistics) -> float:
    """Return the expected loss of the channels that a plan by output error removes from one group."""
    moments = statistics.moments
    if group_plan.transform is not None:
        return _lost_rotated(group_plan, moments, group_plan.transform)
    if statistics.consumers.reconstructible:
        return _lost_refitted(group_plan, moments)
    alone = moments.values.diagonal() * moments.gradients.diagonal()
    return float(alone[_dropped(group_plan)].sum())


def _compute_regret_by_score(group_plan: GroupPlan, ranking: Ranking) -> GroupRegret:
    """Sum over removed channels the loss of each at its position in the order."""
    steps = {c: ranking.losses[place] - ranking.losses[place + 1] for place, c in enumerate(ranking.order)}
    lost = sum(steps[c] for c in range(group_plan.width) if c not in set(group_plan.keep))
    return _make_regret(group_plan, ranking, lost, _count_overlap(group_plan, ranking))


def _compute_regret_by_error(group_plan: GroupPlan, evidence: GroupStatistics) -> GroupRegret:
    ranking = rank_group(evidence.moments, evidence.rotatable, evidence.consumers)
    overlap = _count_overlap(group_plan, ranking)
    mixed = group_plan.transform is not None or ranking.transform is not None
    return _make_regret(group_plan, ranking, compute_loss(group_plan, evidence), None if mixed else overlap)


def _make_regret(group_plan: GroupPlan, ranking: Ranking, lost: float, same: int | None) -> GroupRegret:
    pruned_width = len(group_plan.keep)
    return GroupRegret(
        group_plan.group,
        group_plan.kind,
        group_plan.width,
        pruned_width,
        same,
        lost,
        ranking.loss_at_width(pruned_width),
        max(ranking.loss_at_width(0), lost),
    )


def _count_overlap(group_plan: GroupPlan, ranking: Ranking) -> int:
    return len(set(group_plan.keep) & set(ranking.order[: len(group_plan.keep)]))


def _dropped(group_plan: GroupPlan) -> Tensor:
    return torch.tensor(sorted(set(range(group_plan.width)) - set(group_plan.keep)), dtype=torch.int64)


def _lost_rotated(group_plan: GroupPlan, moments: Moments, transform: Transform) -> float:
    """tr(Σ_dropped · M_dropped) after the transform: Σ becomes Aᵀ Σ A and M becomes A⁻¹ M A⁻ᵀ."""
    out, back = transform.matrix_for_side(1), transform.matrix_for_side(-1)  # A, A⁻ᵀ; [D, D]
    dropped = _dropped(group_plan)
    values = out[:, dropped].T @ moments.values @ out[:, dropped]
    gradients = back[:, dropped].T @ moments.gradients @ back[:, dropped]
    return float((values * gradients).sum())


def _lost_refitted(group_plan: GroupPlan, moments: Moments) -> float:
    """tr(R · M), R the covariance that the kept channels cannot predict."""
    covariance, keep = moments.covariance, torch.tensor(group_plan.keep)
    ridge = RIDGE * covariance.diagonal().mean().clamp_min(TINY) * torch.eye(len(keep), dtype=covariance.dtype)
    known = torch.linalg.solve(covariance[keep][:, keep] + ridge, covariance[keep])  # [kept, D]
    residual = covariance - covariance[:, keep] @ known
    return max(float((residual * moments.gradients).sum()), 0.0)
