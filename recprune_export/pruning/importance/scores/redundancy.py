"""Scores by the redundancy of a group's channels."""

import torch
from torch import Tensor

from recprune_export.program.recorder import ValueRecorder
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.importance.scores.activations import ResolvedSite, resolve_sites
from recprune_export.pruning.importance.scores.score_inputs import ScoreInputs
from recprune_export.pruning.statistics.activation_sites import find_consumer_sites


def cosine(inputs: ScoreInputs) -> dict[str, Ranking]:
    """Rank by repeatedly removing, of the two most similar channels, the one with the smaller variance.

    Similarity is the absolute cosine of the centered activations, because the layer that reads two parallel channels
    can compensate for either (merging similar neurons: Srinivas and Babu 2015, "Data-free Parameter Pruning for Deep
    Neural Networks", section 3). A removed channel costs 1 - |cosine|; a constant one costs nothing.
    """
    consumers = find_consumer_sites(inputs.program)
    sites = resolve_sites(inputs.program, {name: consumer.sites for name, consumer in consumers.items()})
    covariances = _covariances(inputs, sites)
    return {
        g.name: _rank_by_similarity(covariances[g.name] if g.name in covariances else torch.zeros(g.width, g.width))
        for g in inputs.program.analysis.groups
    }


def _covariances(inputs: ScoreInputs, sites: dict[str, list[ResolvedSite]]) -> dict[str, Tensor]:
    """Return the covariance of each group's activations, D×D, summed over its sites, each with trace 1."""
    nodes = {site.node.name for group_sites in sites.values() for site in group_sites}
    recorder = ValueRecorder(inputs.program, nodes, stop_early=True)
    sums: dict[tuple[str, int], tuple[Tensor, Tensor, int]] = {}
    for request, _ in inputs.batches:
        recorded = recorder(request).values
        rows = len(next(iter(request.values())))
        for name, group_sites in sites.items():
            for number, site in enumerate(group_sites):
                values = site.channels_by_request(recorded[site.node.name], rows).flatten(0, 1).double()
                square, total, count = sums.get((name, number), (torch.zeros(()), torch.zeros(()), 0))
                sums[name, number] = (square + values.T @ values, total + values.sum(0), count + len(values))
    covariances: dict[str, Tensor] = {}
    for (name, _), (square, total, count) in sums.items():
        covariance = square / count - torch.outer(total, total) / count**2
        scaled = covariance / covariance.trace().clamp_min(1e-30)
        covariances[name] = covariances[name] + scaled if name in covariances else scaled
    return covariances


def _rank_by_similarity(covariance: Tensor) -> Ranking:
    """Remove the channel of smaller variance of the most similar pair until one is left; rank in reverse order."""
    negligible = 1e-10  # of the largest variance: such a channel is constant
    width, variance = len(covariance), covariance.diagonal()
    silent = variance <= negligible * variance.max()
    scale = variance.clamp_min(1e-30).sqrt()
    similarity = (covariance / torch.outer(scale, scale)).abs().clamp_max(1.0)
    similarity[silent], similarity[:, silent] = -1.0, -1.0
    similarity.fill_diagonal_(-1.0)
    removed = [index for index in range(width) if bool(silent[index])]
    costs = [0.0] * len(removed)
    nearest = similarity.max(1)
    closest, partner = nearest.values.clone(), nearest.indices.clone()
    while len(removed) < width - 1:
        one = int(closest.argmax())
        other = int(partner[one])
        redundant = one if (variance[one], -one) < (variance[other], -other) else other
        costs.append(1.0 - float(closest[one]))
        removed.append(redundant)
        similarity[redundant], similarity[:, redundant], closest[redundant] = -1.0, -1.0, -1.0
        orphans = ((partner == redundant) & (closest >= 0.0)).nonzero().flatten()
        if len(orphans):
            nearest = similarity[orphans].max(1)
            closest[orphans], partner[orphans] = nearest.values, nearest.indices
    remaining = [index for index in range(width) if index not in set(removed)]
    order = (*remaining, *reversed(removed))
    tails = torch.tensor([*costs, *[1.0] * len(remaining)], dtype=torch.float64).cumsum(0).flip(0)
    return Ranking(order, (*tails.tolist(), 0.0))
