"""Rank channels by what the answers lose without them, rotated first where that is allowed.

For each group: a group whose axis is vector-like is rotated, so that few channels hold what matters (`rotation`); channels
that end in linear layers are chosen so that these layers, refitted, lose least (`selection`); of any other group each channel
counts with E[x²]·E[g²], the Fisher information of its absence (Theis et al. 2018, "Faster gaze prediction", section 2.2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from recprune_export.data.batch import Batch
from recprune_export.program.program import Program
from recprune_export.pruning.importance.greedy_selection import greedy_order
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.rotation.bases import balanced_basis, orthogonal_basis
from recprune_export.pruning.rotation.eligibility import RotatableGroup, find_rotatable_groups
from recprune_export.pruning.rotation.transform import Transform
from recprune_export.pruning.statistics.activation_sites import ConsumerSites, find_consumer_sites
from recprune_export.pruning.statistics.moments import ActivationSite, CurvatureProbe, Moments, gather_moments


def rank_by_output_error(
    program: Program, batches: Sequence[Batch], probe: CurvatureProbe, seed: int = 0
) -> dict[str, Ranking]:
    """Rank the channels of every group; losses are in units of the expected loss, and compare across groups."""
    evidence = gather_group_statistics(program, batches, probe, seed)
    rankings = {name: rank_group(e.moments, e.rotatable, e.consumers) for name, e in evidence.items()}
    # What is put out nowhere, such as a vector that only meets others, goes by chance.
    missing = {g.name: g.width for g in program.analysis.groups if g.name not in rankings}
    return rankings | {name: Ranking(tuple(range(width)), (0.0,) * (width + 1)) for name, width in missing.items()}


@dataclass(frozen=True)
class GroupStatistics:
    """What is known of one group: its moments, how it may be rotated, if at all, and where it is read."""

    moments: Moments
    rotatable: RotatableGroup | None
    consumers: ConsumerSites


def gather_group_statistics(
    program: Program, batches: Sequence[Batch], probe: CurvatureProbe, seed: int = 0
) -> dict[str, GroupStatistics]:
    """Gather what groups are ranked by; a group that is put out nowhere is left out."""
    rotatable = find_rotatable_groups(program).rotatable
    readings = find_consumer_sites(program)
    points = {name: _points(name, rotatable, readings) for name in readings}
    moments = gather_moments(program, points, batches, probe, seed)
    return {name: GroupStatistics(moments[name], rotatable.get(name), readings[name]) for name in points}


def _points(
    name: str, rotatable: Mapping[str, RotatableGroup], readings: Mapping[str, ConsumerSites]
) -> Sequence[ActivationSite]:
    group = rotatable.get(name)
    if group is None or not group.sources:
        return readings[name].sites
    return [ActivationSite(node, axis, 1 if group.orthogonal else side) for node, axis, side in group.sources]


def rank_group(moments: Moments, rotatable: RotatableGroup | None, consumers: ConsumerSites) -> Ranking:
    """Rank the channels of one group."""
    width = len(moments.sizes)
    if rotatable is not None:
        basis, alone = orthogonal_basis(moments) if rotatable.orthogonal else balanced_basis(moments)
        return Ranking(tuple(range(width)), _tails(alone), Transform(basis))
    if consumers.reconstructible:
        order, losses = greedy_order(moments)
        return Ranking(tuple(order), tuple(losses.tolist()))
    alone = moments.values.diagonal() * moments.gradients.diagonal()
    best = alone.argsort(descending=True, stable=True)
    return Ranking(tuple(best.tolist()), _tails(alone[best]))


def _tails(alone: Tensor) -> tuple[float, ...]:
    """From the loss of each channel, in order, the loss when the first k stay, k = 0 … D."""
    tails = alone.clamp_min(0.0).flip(0).cumsum(0).flip(0)
    return (*tails.tolist(), 0.0)
