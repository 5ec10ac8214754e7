"""Second moments of what a group's channels hold, and of how sensitive the answers are to it.

Both are sums over rows of calibration data, so that batches, and later machines, can be added up; they are as large as
the width squared, whatever the number of rows of a table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recprune_export.channels.analysis import Analysis
from recprune_export.channels.groups import Group
from recprune_export.program.program import Program
from recprune_export.program.recorder import ValueRecorder

Batch = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]  # request, labels
TINY = 1e-30
# From a response to a scalar whose gradient, squared, has the curvature of the loss as its mean: see `Objective.probe`.
CurvatureProbe = Callable[[Mapping[str, Tensor], torch.Generator], Tensor]


@dataclass(frozen=True)
class ActivationSite:
    """A value at which a group is looked at: a node, the axis on which it has the channels, and the side it lies on."""

    node: str
    axis: int
    side: int = 1


@dataclass(frozen=True)
class Moments:
    """Of one group of width D, all D×D in float64.

    `values` E[x xᵀ] of what the channels hold, `covariance` the same without the mean, `gradients` E[Σ g gᵀ] of the
    answer's sensitivity to it, summed over the places of one request: tr(values · gradients) estimates what the channels
    mean for one answer. Several points are pooled, each scaled so that values and gradients weigh alike; a value of the
    other side counts as a gradient, and its gradient as a value, for so they are transformed. `sizes` is E[x xᵀ]
    of side +1 alone, as it is.
    """

    values: Tensor
    covariance: Tensor
    gradients: Tensor
    sizes: Tensor


def gather_moments(
    program: Program,
    sites: Mapping[str, Sequence[ActivationSite]],
    batches: Sequence[Batch],
    probe: CurvatureProbe,
    seed: int = 0,
) -> dict[str, Moments]:
    """Return the moments of each group at its `sites`, from one pass forwards and backwards per batch."""
    totals = _MomentSums(program, sites)
    generator = torch.Generator().manual_seed(seed)
    for request, _ in batches:
        totals.add(request, probe, generator)
    return {name: _pool([totals.sums[name, point] for point in own], own, totals.rows) for name, own in sites.items()}


@dataclass
class _Sums:
    """At one point: Σ x xᵀ, Σ x, Σ g gᵀ, and over how many places."""

    values: Tensor
    total: Tensor
    gradients: Tensor
    places: int = 0


def _pool(sums: Sequence[_Sums], points: Sequence[ActivationSite], rows: int) -> Moments:
    width = len(sums[0].total)
    values, covariance, gradients = (torch.zeros(width, width, dtype=torch.float64) for _ in range(3))
    sizes = torch.zeros(width, width, dtype=torch.float64)
    for s, point in zip(sums, points, strict=True):
        places, mean = max(s.places, 1), s.total / max(s.places, 1)
        held, slopes = s.values / places, s.gradients / max(rows, 1)
        central = held - torch.outer(mean, mean)
        if point.side < 0:
            held, central, slopes = slopes, slopes, held
        else:
            sizes += held
        scale = (slopes.trace().clamp_min(TINY) / held.trace().clamp_min(TINY)).sqrt() if len(points) > 1 else 1.0
        values, covariance, gradients = values + scale * held, covariance + scale * central, gradients + slopes / scale
    return Moments(values, covariance, gradients, sizes)


class _MomentSums:
    def __init__(self, program: Program, points: Mapping[str, Sequence[ActivationSite]]) -> None:
        self._at: dict[str, list[tuple[str, ActivationSite, Tensor]]] = {}
        self.sums: dict[tuple[str, ActivationSite], _Sums] = {}
        self.rows = 0
        self._first_input = program.signature.inputs[0].name
        for name, own in points.items():
            group = program.analysis.group(name)
            for point in own:
                positions = channel_positions(program.analysis, group, point)
                self._at.setdefault(point.node, []).append((name, point, positions))
                square, vector = torch.zeros(group.width, group.width).double(), torch.zeros(group.width).double()
                self.sums[name, point] = _Sums(square, vector, square.clone())
        self._recorder = ValueRecorder(program, self._at, keep_gradients=True)

    def add(self, request: Mapping[str, Tensor], probe: CurvatureProbe, generator: torch.Generator) -> None:
        recording = self._recorder(request)
        values = recording.values
        with torch.enable_grad():
            response = probe(recording.answers, generator)
            gradients = torch.autograd.grad(response, list(values.values()), allow_unused=True)
        self.rows += len(request[self._first_input])
        for (node, value), gradient in zip(values.items(), gradients, strict=True):
            for name, point, positions in self._at[node]:
                self._accumulate(self.sums[name, point], point.axis, positions, value.detach(), gradient)

    @staticmethod
    def _accumulate(sums: _Sums, axis: int, positions: Tensor, value: Tensor, gradient: Tensor | None) -> None:
        held = _samples(value, axis, positions)
        sums.values += held.T @ held
        sums.total += held.sum(0)
        sums.places += len(held)
        if gradient is not None:
            # At some places there is no slope, as of √x at 0: they tell nothing.
            slopes = _samples(gradient, axis, positions).nan_to_num(0.0, 0.0, 0.0)
            sums.gradients += slopes.T @ slopes


def _samples(value: Tensor, axis: int, positions: Tensor) -> Tensor:
    """[..., n·D, ...] to [rows, D]: each occurrence of the group on the axis is a row of its own."""
    occurrences, width = positions.shape
    last = value.movedim(axis, -1).index_select(-1, positions.reshape(-1))
    return last.reshape(-1, occurrences, width).reshape(-1, width).double()


def channel_positions(analysis: Analysis, group: Group, site: ActivationSite) -> Tensor:
    """Return the indices on the axis of a value at which each channel lies, [occurrences, D].

    The j-th occurrence of every channel belongs to the same copy of the group: the same field, the same head.
    """
    sets: Any = analysis.removed_by[site.node]
    number = {channel.identity: position for position, channel in enumerate(group.channels)}
    places: list[list[int]] = [[] for _ in group.channels]
    for index, channels in enumerate(sets[site.axis]):
        for channel in channels:
            if channel in number:
                places[number[channel]].append(index)
    return torch.tensor(places, dtype=torch.int64).T.contiguous()
