"""Scores by the slope of the loss as a channel fades: by its *gate*, a factor of 1 on all that the channel holds.

The slope for one request is Σ a·∂L/∂a over the values that first hold the channel. L is the loss against the labels where
there are any, and else the probe, whose squared slopes have the curvature of the loss as their mean (`Objective.probe`).
"""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from recprune_export.pruning.moments import Batch
from recprune_export.pruning.points import producing_points
from recprune_export.pruning.scores.activations import Recorder, places
from recprune_export.pruning.scores.inputs import ScoreInputs


def fisher(inputs: ScoreInputs) -> dict[str, Tensor]:
    """½ E[slope²], the diagonal of the empirical Fisher information at the gates.

    It estimates the rise of the loss when the gate closes (Theis et al. 2018, "Faster gaze prediction with dense
    networks and Fisher pruning", section 2.2, equation 8).
    """
    return _mean_over_requests(inputs, lambda slopes: 0.5 * slopes.square())


def gradient(inputs: ScoreInputs) -> dict[str, Tensor]:
    """E|slope|, activation times gradient.

    Molchanov et al. 2017, "Pruning Convolutional Neural Networks for Resource Efficient Inference", section 2.2.
    """
    return _mean_over_requests(inputs, torch.abs)


def _mean_over_requests(inputs: ScoreInputs, measure: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    totals = {g.name: torch.zeros(g.width, dtype=torch.float64) for g in inputs.program.analysis.groups}
    rows = 0
    for slopes in _slopes(inputs):
        for name, own in slopes.items():
            totals[name] += measure(own.double()).sum(0)
        rows += len(next(iter(slopes.values()), ()))
    return {name: total / max(rows, 1) for name, total in totals.items()}


def _slopes(inputs: ScoreInputs) -> Iterator[Mapping[str, Tensor]]:
    """Yield for each batch, by group, the slope at each gate for each request, [rows, D]."""
    found = places(inputs.program, producing_points(inputs.program))
    recorder = Recorder(inputs.program, {p.node for own in found.values() for p in own}, slopes=True)
    generator = torch.Generator().manual_seed(inputs.seed)
    for batch in inputs.batches:
        response, rows = recorder.answer(batch[0]), len(next(iter(batch[0].values())))
        nodes = list(recorder.values)
        total = _total_loss(inputs, response, batch, rows, generator)
        gradients = torch.autograd.grad(total, [recorder.values[node] for node in nodes], allow_unused=True)
        gradient_of = dict(zip(nodes, gradients, strict=True))
        slopes = {}
        for name, own in found.items():
            width = inputs.program.analysis.group(name).width
            slopes[name] = torch.zeros(rows, width)
            for place in own:
                value, slope = recorder.values[place.node].detach(), gradient_of[place.node]
                if slope is not None:
                    mine = place.by_request(value * slope, rows).sum(1)
                    slopes[name] += mine if len(mine) == rows else mine / rows
        yield slopes


def _total_loss(
    inputs: ScoreInputs, response: Mapping[str, Tensor], batch: Batch, rows: int, generator: torch.Generator
) -> Tensor:
    """The loss summed over requests, so that its gradient at a request's values is that request's own."""
    labels = batch[1]
    return inputs.loss(response, labels) * rows if labels else inputs.probe(response, generator)
