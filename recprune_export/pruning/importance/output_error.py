"""Ranking of channels by the error of the outputs without them, after a rotation where that is allowed.

A group whose axis may be rotated is rotated, so that few channels contain most of the signal (`rotation`); channels that only linear
layers read are selected so that these layers, after a refit, lose least (`greedy_selection`); in any other group the loss of each channel
is E[x²]·E[g²], the Fisher information of its absence (Theis et al. 2018, "Faster gaze prediction", section 2.2).
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

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

NO_RANKINGS: Mapping[str, Ranking] = MappingProxyType({})


def rank_by_output_error(
    program: Program,
    batches: Sequence[Batch],
    probe: CurvatureProbe,
    seed: int = 0,
    *,
    computed: Mapping[str, Ranking] = NO_RANKINGS,
) -> dict[str, Ranking]:
    """Rank the channels of every group; losses are in units of the expected loss, and comparable across groups.

    Groups in `computed` already have a ranking. Time and memory: see `gather_moments`, and O(D³) for a group of D.
    """
    statistics = gather_group_statistics(program, batches, probe, seed, skipped=computed.keys())
    rankings = {name: rank_group(s.moments, s.rotatable, s.consumers) for name, s in statistics.items()}
    rankings.update(computed)
    # Groups that no value of the graph holds on one axis keep their order.
    missing = {g.name: g.width for g in program.analysis.groups if g.name not in rankings}
    return rankings | {name: Ranking(tuple(range(width)), (0.0,) * (width + 1)) for name, width in missing.items()}


@dataclass(frozen=True)
class GroupStatistics:
    """Statistics of one group: its moments, the allowed rotation, if any, and the sites that read it."""

    moments: Moments
    rotatable: RotatableGroup | None
    consumers: ConsumerSites


def gather_group_statistics(
    program: Program,
    batches: Sequence[Batch],
    probe: CurvatureProbe,
    seed: int = 0,
    *,
    skipped: Collection[str] = (),
) -> dict[str, GroupStatistics]:
    """Return the statistics of all groups that a value of the graph contains, except those in `skipped`."""
    rotatable = find_rotatable_groups(program).rotatable
    consumers = find_consumer_sites(program)
    sites = {name: _sites(name, rotatable, consumers) for name in consumers if name not in skipped}
    moments = gather_moments(program, sites, batches, probe, seed)
    return {name: GroupStatistics(moments[name], rotatable.get(name), consumers[name]) for name in sites}


def _sites(
    name: str, rotatable: Mapping[str, RotatableGroup], consumers: Mapping[str, ConsumerSites]
) -> Sequence[ActivationSite]:
    group = rotatable.get(name)
    if group is None or not group.sources:
        return consumers[name].sites
    return [ActivationSite(node, axis, 1 if group.orthogonal else side) for node, axis, side in group.sources]


def rank_group(moments: Moments, rotatable: RotatableGroup | None, consumers: ConsumerSites) -> Ranking:
    """Rank the channels of one group."""
    width = len(moments.sizes)
    if rotatable is not None:
        basis, channel_losses = orthogonal_basis(moments) if rotatable.orthogonal else balanced_basis(moments)
        return Ranking(tuple(range(width)), _tails(channel_losses), Transform(basis))
    if consumers.reconstructible:
        order, losses = greedy_order(moments)
        return Ranking(tuple(order), tuple(losses.tolist()))
    channel_losses = moments.values.diagonal() * moments.gradients.diagonal()
    best = channel_losses.argsort(descending=True, stable=True)
    return Ranking(tuple(best.tolist()), _tails(channel_losses[best]))


def _tails(channel_losses: Tensor) -> tuple[float, ...]:
    """Return the loss when the first k channels are kept, k = 0 … D, from the losses of single channels, in order."""
    tails = channel_losses.clamp_min(0.0).flip(0).cumsum(0).flip(0)
    return (*tails.tolist(), 0.0)
