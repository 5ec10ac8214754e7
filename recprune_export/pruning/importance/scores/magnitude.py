"""Scores computed from the weights of a channel's slices, and a random score."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from recprune_export.channels.groups import Group
from recprune_export.program.row_chunks import row_chunks
from recprune_export.program.streamed_tables.streamed_table import StreamedTable
from recprune_export.pruning.importance.scores.score_inputs import ScoreInputs


def random(inputs: ScoreInputs) -> dict[str, Tensor]:
    """Return random scores, the baseline that every other score has to beat."""
    generator = torch.Generator().manual_seed(inputs.seed)
    return {g.name: torch.rand(g.width, generator=generator) for g in inputs.program.analysis.groups}


def magnitude_l1(inputs: ScoreInputs) -> dict[str, Tensor]:
    """Sum the absolute weights of the channel's slices (Li et al. 2017, "Pruning Filters for Efficient ConvNets", 3.1)."""
    return _over_weights(inputs, torch.abs)


def magnitude_l2(inputs: ScoreInputs) -> dict[str, Tensor]:
    """Sum the squared weights of the channel's slices, each tensor relative to its mean square.

    Otherwise a large table would dominate the layers that it is tied to.
    """
    return _over_weights(inputs, torch.square, relative=True)


def taylor(inputs: ScoreInputs) -> dict[str, Tensor]:
    """Return the squared change of the loss, to first order, when the channel is zeroed, averaged over batches.

    (Σ w·∂L/∂w)² for each slice, summed over slices: Molchanov et al. 2019, "Importance Estimation for Neural Network
    Pruning", equations 7 and 8, in their group form.
    """
    parameters = inputs.program.parameters()
    totals = {group.name: torch.zeros(group.width) for group in inputs.program.analysis.groups}
    for request, labels in inputs.batches:
        loss = inputs.loss(inputs.program(request), labels)
        gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        with torch.no_grad():
            sensitivity = {n: p * g for (n, p), g in zip(parameters.items(), gradients, strict=True) if g is not None}
            for group in inputs.program.analysis.groups:
                totals[group.name] += _per_channel(group, sensitivity, square=True)
    return totals


def _over_weights(
    inputs: ScoreInputs, measure: Callable[[Tensor], Tensor], *, relative: bool = False
) -> dict[str, Tensor]:
    with torch.no_grad():
        parameters = inputs.program.parameters()
        touched = {tensor for group in inputs.program.analysis.groups for tensor, _ in group.axes()}
        measured = {name: _measure(p, measure, relative) for name, p in parameters.items() if name in touched}
        return {g.name: _per_channel(g, measured, square=False) for g in inputs.program.analysis.groups}


def _measure(weight: Tensor, measure: Callable[[Tensor], Tensor], relative: bool) -> Tensor:
    """Return the measure of each weight, over their mean if `relative`; for a streamed table the sums of its columns, [1, columns]."""
    if isinstance(weight, StreamedTable):
        values = torch.zeros(1, weight.shape[1], dtype=torch.float64)
        for rows in row_chunks(weight):
            values += measure(weight[rows].double()).sum(0, keepdim=True)
        mean = values.sum() / weight.numel()
    else:
        values = measure(weight)
        mean = values.mean()
    return values / mean.clamp_min(1e-30) if relative else values


def _per_channel(group: Group, values: Mapping[str, Tensor], square: bool) -> Tensor:
    """Add up, for each channel, the sums of `values` over its slices (or the squares of the sums)."""
    total = torch.zeros(group.width)
    for tensor, axis in group.axes():
        if tensor not in values:
            continue
        value = values[tensor]
        sums = value.sum([a for a in range(value.ndim) if a != axis]) if value.ndim > 1 else value
        sums = sums.square() if square else sums
        channel, index = _positions(group, tensor, axis)
        total.index_add_(0, channel, sums[index].to(total.dtype))
    return total


def _positions(group: Group, tensor: str, axis: int) -> tuple[Tensor, Tensor]:
    pairs = [
        (position, s.index)
        for position, channel in enumerate(group.channels)
        for s in channel.slices
        if (s.tensor, s.axis) == (tensor, axis)
    ]
    channel, index = torch.tensor(pairs, dtype=torch.int64).T
    return channel, index
