"""Second moments of the values of a group's channels, and of the gradients of the outputs with respect to them.

Both are sums over rows of calibration data, so that those of batches and machines can be added; their size is the
square of the width, independent of the number of rows of a table.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recprune_export.channels.analysis import Analysis
from recprune_export.channels.groups import Group
from recprune_export.data.batch import Batch
from recprune_export.distributed.collectives import sum_integer
from recprune_export.distributed.gradients import sum_tensors
from recprune_export.distributed.shares import gather_answers
from recprune_export.program.program import Program
from recprune_export.program.recorder import ValueRecorder
from recprune_export.program.requests.share_request import share_request

TINY = 1e-30
# A map from a response to a scalar whose squared gradient has the curvature of the loss as its mean; see `Objective.probe`.
CurvatureProbe = Callable[[Mapping[str, Tensor], torch.Generator], Tensor]


@dataclass(frozen=True)
class ActivationSite:
    """A value at which a group is recorded: a node, the axis of the channels, and the side, primal (1) or dual (-1)."""

    node: str
    axis: int
    side: int = 1


@dataclass(frozen=True)
class Moments:
    """Moments of one group of width D, all D×D in float64.

    `values` is E[x xᵀ] of the channels, `covariance` the same without the mean, `gradients` E[Σ g gᵀ] of the outputs'
    gradients, summed over the positions of one request: tr(values · gradients) estimates the channels' effect on one
    output. Several sites are pooled, each scaled so that values and gradients have equal weight; on the dual side values count as
    gradients and gradients as values, because they transform in this way. `sizes` is E[x xᵀ] only of side +1, unscaled.
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
    """Return the moments of each group at its `sites`, from one forward and backward pass per batch.

    For each site of width D, N rows take N · D² multiplications, for the upper triangles only, and D² of memory. Values are multiplied in
    float64, because the covariance is a difference, and may be almost singular; gradients in float32, each batch scaled by its largest
    one, and the batches are added in float64. With several processes, each takes its share of every batch, and the sums of all are added
    in float64.
    """
    totals = _MomentSums(program, sites)
    generator = torch.Generator().manual_seed(seed)
    for request, _ in batches if totals.sums else ():
        totals.add(share_request(program.signature, request), probe, generator)
    totals.add_other_processes()
    return {
        name: _pool([totals.sums[name, site] for site in group_sites], group_sites, totals.rows)
        for name, group_sites in sites.items()
    }


@dataclass
class _Sums:
    """Sums at one site: Σ x xᵀ, Σ x, Σ g gᵀ, and the number of summed positions.

    Of both matrices only the upper triangle and some elements below it are summed.
    """

    values: Tensor
    total: Tensor
    gradients: Tensor
    places: int = 0


def _pool(sums: Sequence[_Sums], sites: Sequence[ActivationSite], rows: int) -> Moments:
    width = len(sums[0].total)
    values, covariance, gradients = (torch.zeros(width, width, dtype=torch.float64) for _ in range(3))
    sizes = torch.zeros(width, width, dtype=torch.float64)
    for s, site in zip(sums, sites, strict=True):
        places, mean = max(s.places, 1), s.total / max(s.places, 1)
        held, slopes = (mirror_upper(total) / n for total, n in ((s.values, places), (s.gradients, max(rows, 1))))
        central = held - torch.outer(mean, mean)
        if site.side < 0:
            held, central, slopes = slopes, slopes, held
        else:
            sizes += held
        scale = (slopes.trace().clamp_min(TINY) / held.trace().clamp_min(TINY)).sqrt() if len(sites) > 1 else 1.0
        values, covariance, gradients = values + scale * held, covariance + scale * central, gradients + slopes / scale
    return Moments(values, covariance, gradients, sizes)


class _MomentSums:
    def __init__(self, program: Program, sites: Mapping[str, Sequence[ActivationSite]]) -> None:
        self._at: dict[str, list[tuple[str, ActivationSite, Tensor]]] = {}
        self.sums: dict[tuple[str, ActivationSite], _Sums] = {}
        self.rows = 0
        self._first_input = program.signature.inputs[0].name
        for name, group_sites in sites.items():
            group = program.analysis.group(name)
            for site in group_sites:
                positions = channel_positions(program.analysis, group, site)
                self._at.setdefault(site.node, []).append((name, site, positions))
                square, vector = torch.zeros(group.width, group.width).double(), torch.zeros(group.width).double()
                self.sums[name, site] = _Sums(square, vector, square.clone())
        self._recorder = ValueRecorder(program, self._at, keep_gradients=True)

    def add(self, request: Mapping[str, Tensor], probe: CurvatureProbe, generator: torch.Generator) -> None:
        recording = self._recorder(request)
        values = recording.values
        with torch.enable_grad():
            (answers,) = gather_answers([recording.answers])
            response = probe(answers, generator)
            gradients = torch.autograd.grad(response, list(values.values()), allow_unused=True)
        self.rows += len(request[self._first_input])
        for (node, value), gradient in zip(values.items(), gradients, strict=True):
            for name, site, positions in self._at[node]:
                self._accumulate(self.sums[name, site], site.axis, positions, value.detach(), gradient)

    def add_other_processes(self) -> None:
        """Add the sums of other processes, which process other rows of the batches."""
        sums = list(self.sums.values())
        sum_tensors([matrix for s in sums for matrix in (s.values, s.total, s.gradients)])
        self.rows = sum_integer(self.rows)
        for s in sums:
            s.places = sum_integer(s.places)

    @staticmethod
    def _accumulate(sums: _Sums, axis: int, positions: Tensor, value: Tensor, gradient: Tensor | None) -> None:
        held = _samples(value, axis, positions)
        held = held.double()
        add_products(sums.values, held)
        sums.total += held.sum(0)
        sums.places += len(held)
        if gradient is not None:
            # Gradients that are not finite, as of √x at 0, count as zero.
            slopes = _samples(gradient, axis, positions).nan_to_num(0.0, 0.0, 0.0)
            largest = slopes.abs().amax() if slopes.numel() else 0.0
            if largest > 0.0:
                add_products(sums.gradients, slopes / largest, float(largest) ** 2)


def add_products(total: Tensor, samples: Tensor, scale: float = 1.0) -> None:
    """Add scale · XᵀX of samples X, [rows, D], to the upper triangle of `total`, [D, D], by blocks of rows.

    Some elements below the diagonal are added as well; `mirror_upper` completes the matrix.
    """
    block = 256  # columns: narrower products are slower
    for start in range(0, len(total), block):
        product = samples[:, start : start + block].T @ samples[:, start:]
        total[start : start + block, start:].add_(product, alpha=scale)


def mirror_upper(upper: Tensor) -> Tensor:
    """Return the symmetric matrix with this upper triangle."""
    return upper.triu() + upper.triu(1).T


def _samples(value: Tensor, axis: int, positions: Tensor) -> Tensor:
    """Reshape [..., n·D, ...] to [rows, D]: each occurrence of the group on the axis is one row.

    Real and imaginary part of a complex value are separate rows: sums of their squares are those of its magnitude.
    """
    if value.is_complex():
        return torch.cat([_samples(part, axis, positions) for part in (value.real, value.imag)])
    last, indices = value.movedim(axis, -1), positions.reshape(-1)
    if last.shape[-1] != len(indices) or not torch.equal(indices, torch.arange(len(indices))):
        last = last.index_select(-1, indices)
    return last.reshape(-1, positions.shape[1])


def channel_positions(analysis: Analysis, group: Group, site: ActivationSite) -> Tensor:
    """Return the indices of each channel on the axis of a value, [occurrences, D].

    The j-th occurrences of all channels belong to the same copy of the group: the same field, the same head.
    """
    sets: Any = analysis.removed_by[site.node]
    position = {channel.identity: number for number, channel in enumerate(group.channels)}
    indices: list[list[int]] = [[] for _ in group.channels]
    for index, channels in enumerate(sets[site.axis]):
        for channel in channels:
            if channel in position:
                indices[position[channel]].append(index)
    return torch.tensor(indices, dtype=torch.int64).T.contiguous()
