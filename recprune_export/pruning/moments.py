"""Second moments of what a group's channels hold, and of how sensitive the answers are to it.

Both are sums over rows of calibration data, so that batches, and later machines, can be added up; they are as large as
the width squared, whatever the number of rows of a table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.channels.analysis import Analysis
from recprune_export.channels.groups import Group
from recprune_export.program.program import Program

Batch = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]  # request, labels
# From a response to a scalar whose gradient, squared, has the curvature of the loss as its mean: see `Objective.probe`.
Probe = Callable[[Mapping[str, Tensor], torch.Generator], Tensor]


@dataclass(frozen=True)
class Point:
    """A value at which a group is looked at: a node of the graph, and the axis on which it has the group's channels."""

    node: str
    axis: int


@dataclass(frozen=True)
class Moments:
    """Of one group of width D, summed over rows and over the points: x is what the channels hold, g its gradient.

    `values` E[x xᵀ] D×D and `mean` E[x] D, over all places where the channels occur; `gradients` E[Σ g gᵀ] D×D, summed
    over the places of one request. So tr(values · gradients) estimates what the channels mean for one answer.
    """

    values: Tensor
    gradients: Tensor
    mean: Tensor

    def centred(self) -> Tensor:
        """Return the covariance of what the channels hold, D×D."""
        return self.values - torch.outer(self.mean, self.mean)


def gather_moments(
    program: Program,
    analysis: Analysis,
    points: Mapping[str, Sequence[Point]],
    batches: Sequence[Batch],
    probe: Probe,
    seed: int = 0,
) -> dict[str, Moments]:
    """Return the moments of each group at its `points`, from one pass forwards and backwards per batch."""
    watch = _Watch(program, analysis, points)
    generator = torch.Generator().manual_seed(seed)
    for request, _ in batches:
        watch.add(request, probe, generator)
    return {name: watch.moments(name) for name in points}


class _Watch(fx.Interpreter):
    def __init__(self, program: Program, analysis: Analysis, points: Mapping[str, Sequence[Point]]) -> None:
        super().__init__(program.module)
        self._signature = program.signature
        self._points: dict[str, list[tuple[str, int, Tensor]]] = {}
        widths = {group.name: group.width for group in analysis.groups}
        for name, own in points.items():
            for point in own:
                positions = channel_positions(analysis, analysis.group(name), point)
                self._points.setdefault(point.node, []).append((name, point.axis, positions))
        self._sums = {name: [torch.zeros(w, w, dtype=torch.float64) for _ in range(2)] for name, w in widths.items()}
        self._means = {name: torch.zeros(w, dtype=torch.float64) for name, w in widths.items()}
        self._samples = dict.fromkeys(widths, 0)
        self._rows = 0
        self._values: dict[str, Tensor] = {}

    def add(self, request: Mapping[str, Tensor], probe: Probe, generator: torch.Generator) -> None:
        self._values = {}
        tensors = [request[i.name] for i in self._signature.inputs]
        with torch.enable_grad():
            answers = self.run(*tensors)
            response = {o.name: a for o, a in zip(self._signature.outputs, answers, strict=True)}
            watched = list(self._values.values())
            gradients = torch.autograd.grad(probe(response, generator), watched, allow_unused=True)
        self._rows += len(tensors[0])
        for (node, value), gradient in zip(self._values.items(), gradients, strict=True):
            for name, axis, positions in self._points[node]:
                self._accumulate(name, axis, positions, value.detach(), gradient)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._points:
            if not value.requires_grad:  # frozen weights below it
                value = value.detach().requires_grad_()
            self._values[n.name] = value
        return value

    def _accumulate(self, name: str, axis: int, positions: Tensor, value: Tensor, gradient: Tensor | None) -> None:
        rows = _samples(value, axis, positions)
        self._sums[name][0] += rows.T @ rows
        self._means[name] += rows.sum(0)
        self._samples[name] += len(rows)
        if gradient is not None:
            slopes = _samples(gradient, axis, positions)
            self._sums[name][1] += slopes.T @ slopes

    def moments(self, name: str) -> Moments:
        values, gradients = self._sums[name]
        samples = max(self._samples[name], 1)
        return Moments(values / samples, gradients / max(self._rows, 1), self._means[name] / samples)


def _samples(value: Tensor, axis: int, positions: Tensor) -> Tensor:
    """[..., n·D, ...] to [rows, D]: each occurrence of the group on the axis is a row of its own."""
    occurrences, width = positions.shape
    last = value.movedim(axis, -1).index_select(-1, positions.reshape(-1))
    return last.reshape(-1, occurrences, width).reshape(-1, width).double()


def channel_positions(analysis: Analysis, group: Group, point: Point) -> Tensor:
    """Return the indices on the axis of a value at which each channel lies, [occurrences, D].

    The j-th occurrence of every channel belongs to the same copy of the group: the same field, the same head.
    """
    sets: Any = analysis.removed_by[point.node]
    number = {channel.identity: position for position, channel in enumerate(group.channels)}
    places: list[list[int]] = [[] for _ in group.channels]
    for index, channels in enumerate(sets[point.axis]):
        for channel in channels:
            if channel in number:
                places[number[channel]].append(index)
    return torch.tensor(places, dtype=torch.int64).T.contiguous()
