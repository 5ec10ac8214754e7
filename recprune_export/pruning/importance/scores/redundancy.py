"""Scores by what the other channels of a group say already."""

import torch
from torch import Tensor

from recprune_export.program.recorder import ValueRecorder
from recprune_export.pruning.importance.ranking import Ranking
from recprune_export.pruning.importance.scores.activations import ResolvedSite, resolve_sites
from recprune_export.pruning.importance.scores.score_inputs import ScoreInputs
from recprune_export.pruning.statistics.activation_sites import find_consumer_sites

SILENT = 1e-10  # of the largest variance: such a channel says nothing


def cosine(inputs: ScoreInputs) -> dict[str, Ranking]:
    """Of the two channels that are most alike, the quieter goes, and so on until one is left.

    Alike are channels whose activations, without their means, point the same way or the opposite one, for then the
    layer that reads them can make up for either (merging similar neurons: Srinivas and Babu 2015, "Data-free Parameter
    Pruning for Deep Neural Networks", section 3). Each that goes counts with 1 - |cosine|; a silent one with nothing.
    """
    readings = find_consumer_sites(inputs.program)
    found = resolve_sites(inputs.program, {name: reading.sites for name, reading in readings.items()})
    covariances = _covariances(inputs, found)
    return {
        g.name: _one_by_one(covariances[g.name] if g.name in covariances else torch.zeros(g.width, g.width))
        for g in inputs.program.analysis.groups
    }


def _covariances(inputs: ScoreInputs, found: dict[str, list[ResolvedSite]]) -> dict[str, Tensor]:
    """Covariance of each group's activations, D×D, summed over the places where it is read, each of trace 1."""
    nodes = {place.node.name for own in found.values() for place in own}
    recorder = ValueRecorder(inputs.program, nodes, stop_early=True)
    sums: dict[tuple[str, int], tuple[Tensor, Tensor, int]] = {}
    for request, _ in inputs.batches:
        values = recorder(request).values
        rows = len(next(iter(request.values())))
        for name, own in found.items():
            for number, place in enumerate(own):
                held = place.channels_by_request(values[place.node.name], rows).flatten(0, 1).double()
                square, total, count = sums.get((name, number), (torch.zeros(()), torch.zeros(()), 0))
                sums[name, number] = (square + held.T @ held, total + held.sum(0), count + len(held))
    covariances: dict[str, Tensor] = {}
    for (name, _), (square, total, count) in sums.items():
        covariance = square / count - torch.outer(total, total) / count**2
        scaled = covariance / covariance.trace().clamp_min(1e-30)
        covariances[name] = covariances[name] + scaled if name in covariances else scaled
    return covariances


def _one_by_one(covariance: Tensor) -> Ranking:
    """Drop the quieter of the closest pair until one channel is left; the last to go is the best."""
    width, variance = len(covariance), covariance.diagonal()
    silent = variance <= SILENT * variance.max()
    scale = variance.clamp_min(1e-30).sqrt()
    alike = (covariance / torch.outer(scale, scale)).abs().clamp_max(1.0)
    alike[silent], alike[:, silent] = -1.0, -1.0
    alike.fill_diagonal_(-1.0)
    gone = [index for index in range(width) if bool(silent[index])]
    costs = [0.0] * len(gone)
    nearest = alike.max(1)
    closest, partner = nearest.values.clone(), nearest.indices.clone()
    while len(gone) < width - 1:
        one = int(closest.argmax())
        other = int(partner[one])
        quieter = one if (variance[one], -one) < (variance[other], -other) else other
        costs.append(1.0 - float(closest[one]))
        gone.append(quieter)
        alike[quieter], alike[:, quieter], closest[quieter] = -1.0, -1.0, -1.0
        orphans = ((partner == quieter) & (closest >= 0.0)).nonzero().flatten()
        if len(orphans):
            nearest = alike[orphans].max(1)
            closest[orphans], partner[orphans] = nearest.values, nearest.indices
    left = [index for index in range(width) if index not in set(gone)]
    order = (*left, *reversed(gone))
    tails = torch.tensor([*costs, *[1.0] * len(left)], dtype=torch.float64).cumsum(0).flip(0)
    return Ranking(order, (*tails.tolist(), 0.0))
