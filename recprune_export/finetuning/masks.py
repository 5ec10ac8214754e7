"""Masks of unstructured sparsity: the least important single weights are set to zero and stay zero.

Zeros make a file compress better; no operator of ONNX Runtime runs faster with them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import EllipsisType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from recprune_export.distributed.collectives import gather_integers, sum_number, sum_over_ranks
from recprune_export.distributed.ranks import rank
from recprune_export.distributed.row_shards import count_numbers, find_shard
from recprune_export.finetuning.curvature import Curvature, OuterProduct
from recprune_export.program.program import Program
from recprune_export.program.row_chunks import row_chunks
from recprune_export.pruning.allocation.parameter_counts import ParameterCounts


@dataclass(frozen=True)
class NonZeroTarget:
    """The numbers of parameters that may be non-zero, in tables and in other layers."""

    tables: int
    rest: int

    @classmethod
    def from_sparsity(cls, dense: ParameterCounts, tables: float, rest: float) -> "NonZeroTarget":
        """Return the target for a sparsity of the tables and of the other dense parameters.

        >>> NonZeroTarget.from_sparsity(ParameterCounts(tables=100, rest=10), tables=0.75, rest=0.5)
        NonZeroTarget(tables=25, rest=5)
        """
        return cls(int((1.0 - tables) * dense.tables), int((1.0 - rest) * dense.rest))

    def interpolate(self, program: Program, tables: frozenset[str], share: float) -> "NonZeroTarget":
        """Return the intermediate target with `share` of the final zeros."""
        counts = count_parameters(program, tables)
        between = (round(n - share * max(0, n - end)) for n, end in zip(counts, (self.tables, self.rest), strict=True))
        return NonZeroTarget(*between)


def count_parameters(program: Program, tables: frozenset[str]) -> tuple[int, int]:
    """Return the numbers of parameters in tables and in other layers, including zeros and all shards."""
    sizes = {name: count_numbers(p) for name, p in program.parameters().items()}
    in_tables = sum(size for name, size in sizes.items() if name in tables)
    return in_tables, sum(sizes.values()) - in_tables


@torch.no_grad()
def compute_masks(
    program: Program,
    tables: frozenset[str],
    target: NonZeroTarget,
    curvature: Curvature | None = None,
) -> dict[str, Tensor]:
    """Return masks of the non-zero weights by parameter, so that tables and other layers meet `target`; empty if all weights may be kept.

    Weights are compared within the tables, and within the other layers: by the loss without each weight if the `curvature` is given,
    otherwise by magnitude relative to the root mean square of the tensor, since scales differ between layers. Vectors (biases, gains) are
    kept as long as the matrices suffice. Of equally important weights the first are kept, by the order of the parameters and then by
    position. For a table in shards each process returns the mask of its rows: histograms of all shards are added, so the numbers are
    exact. Equally important weights are then kept by the order of the processes. Time: linear in the weights, three passes. Memory: the
    masks, one byte per weight, and less than 10 MiB.
    """
    masks: dict[str, Tensor] = {}
    parameters = program.parameters()
    for in_tables, allowed in ((True, target.tables), (False, target.rest)):
        weights = {name: p for name, p in parameters.items() if (name in tables) == in_tables}
        masks |= _mask_weights(weights, curvature, allowed)
    return masks


def _mask_weights(weights: Mapping[str, Tensor], curvature: Curvature | None, allowed: int) -> dict[str, Tensor]:
    """Return masks of the `allowed` most important of the `weights` by parameter."""
    if allowed >= sum(count_numbers(p) for p in weights.values()):
        return {}
    vectors = {name: p for name, p in weights.items() if p.ndim < 2}
    matrices = {name: p for name, p in weights.items() if p.ndim >= 2}
    for_matrices = allowed - sum(v.numel() for v in vectors.values())
    if for_matrices < 0:
        return _keep_most_important(weights, curvature, max(allowed, 0))
    whole = {name: torch.ones_like(v, dtype=torch.bool) for name, v in vectors.items()}
    return whole | _keep_most_important(matrices, curvature, for_matrices)


def _keep_most_important(weights: Mapping[str, Tensor], curvature: Curvature | None, allowed: int) -> dict[str, Tensor]:
    importance = {
        name: _Importance.of(p, None if curvature is None else curvature[name]) for name, p in weights.items()
    }
    masks = {name: torch.empty(p.shape, dtype=torch.bool) for name, p in weights.items()}

    def values(in_shards: bool) -> Iterator[Tensor]:
        chosen = (weight for weight in importance.values() if weight.in_shards == in_shards)
        return (chunk.flatten() for weight in chosen for _, chunk in weight.chunks())

    shards = partial(values, True) if any(weight.in_shards for weight in importance.values()) else None
    threshold = find_threshold(partial(values, False), allowed, shards)
    ties_left = threshold.ties
    for name, weight in importance.items():
        ties = ties_left
        if weight.in_shards:
            equals = gather_integers(sum(int((chunk == threshold.value).sum()) for _, chunk in weight.chunks()))
            ties, ties_left = max(0, ties - sum(equals[: rank()])), max(0, ties - sum(equals))
        for rows, chunk in weight.chunks():
            above, equal = chunk > threshold.value, chunk == threshold.value
            if equal.any():
                above |= equal & (equal.flatten().cumsum(0).reshape(equal.shape) <= ties)
                ties = max(0, ties - int(equal.sum()))
            masks[name][rows] = above
        if not weight.in_shards:
            ties_left = ties
    return masks


@dataclass(frozen=True)
class _Importance:
    """The importance of each weight of a tensor, computed chunk by chunk: its square times a curvature, or over a scale."""

    weight: Tensor
    curvature: Tensor | OuterProduct | None
    mean_square: Tensor | None

    @classmethod
    def of(cls, weight: Tensor, curvature: Tensor | OuterProduct | None) -> Self:
        return cls(weight, curvature, _mean_square(weight) if curvature is None else None)

    @property
    def in_shards(self) -> bool:
        """Whether these are the rows of this process."""
        return find_shard(self.weight) is not None

    def chunks(self) -> Iterator[tuple[slice | EllipsisType, Tensor]]:
        """Yield rows, and their importance in float32, without a sign."""
        for rows in row_chunks(self.weight):
            square = self.weight[rows].square()
            if self.mean_square is not None:
                yield rows, (square / self.mean_square).float().abs_()
            elif self.curvature is not None:
                yield rows, (square * self.curvature[rows]).float().abs_()


def _mean_square(weight: Tensor) -> Tensor:
    chunks, shard = list(row_chunks(weight)), find_shard(weight)
    if len(chunks) == 1 and shard is None:
        return weight.square().mean().clamp_min(1e-30)
    total = sum(float(weight[rows].double().square().sum()) for rows in chunks)
    total = total if shard is None else sum_number(total)
    return torch.tensor(total / count_numbers(weight), dtype=weight.dtype).clamp_min(1e-30)


@dataclass(frozen=True)
class Threshold:
    """All numbers above `value` and `ties` of those equal to it are the requested number of elements."""

    value: float
    ties: int


Chunks = Callable[[], Iterator[Tensor]]


def find_threshold(chunks: Chunks, count: int, shards: Chunks | None = None) -> Threshold:
    """Return the threshold of the `count` largest numbers; `chunks` yields them, one-dimensional, float32, not negative.

    `shards` yields the numbers of this process, if they are divided among all processes.

    Radix selection: as integers, the bits of such floats have the same order. A histogram of the upper 16 bits finds those of the
    threshold, and one of the lower 16 bits, of the few numbers with the same upper bits, finds the others (Knuth 1998, "The art of
    computer programming", volume 3, section 5.2.5). Time: two passes. Memory: two histograms and a chunk.
    """

    def histogram(digits: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        counts = _count_digits(digits(_bits(chunk)) for chunk in chunks())
        if shards is not None:
            own = _count_digits(digits(_bits(chunk)) for chunk in shards())
            counts += sum_over_ranks(torch.from_numpy(own)).numpy()
        return counts

    upper, remaining = _select_bin(histogram(lambda bits: bits >> 16), count)
    lower, remaining = _select_bin(histogram(lambda bits: bits[bits >> 16 == upper] & 0xFFFF), remaining)
    bits = np.array(upper << 16 | lower, dtype=np.int32)
    return Threshold(float(bits.view(np.float32)), remaining)


def _count_digits(digits: Iterator[np.ndarray]) -> np.ndarray:
    histogram = np.zeros(1 << 16, dtype=np.int64)
    for chunk in digits:
        histogram += np.bincount(chunk, minlength=len(histogram))
    return histogram


def _select_bin(histogram: np.ndarray, count: int) -> tuple[int, int]:
    """Return the digit of the `count`-th largest number, and how many numbers with that digit are among the `count` largest."""
    at_least = histogram[::-1].cumsum()[::-1]
    digit = int((at_least >= max(count, 1)).sum()) - 1 if at_least[0] else 0
    digit = max(digit, 0)
    return digit, max(0, min(count, int(at_least[0])) - int(at_least[digit] - histogram[digit]))


def _bits(chunk: Tensor) -> np.ndarray:
    return chunk.numpy().view(np.int32)


def apply_masks(program: Program, masks: Mapping[str, Tensor], sparse_tables: frozenset[str] = frozenset()) -> None:
    """Set masked weights to exact zero; in `sparse_tables` only in the rows that have a gradient."""
    with torch.no_grad():
        for name, parameter in program.parameters().items():
            if name not in masks:
                continue
            if name not in sparse_tables:
                for rows in row_chunks(parameter):
                    parameter[rows].masked_fill_(~masks[name][rows], 0.0)
            elif parameter.grad is not None:
                touched = parameter.grad._indices()[0]  # may contain duplicates, which have no effect
                parameter[touched] = parameter[touched].masked_fill_(~masks[name][touched], 0.0)


def cubic_schedule(progress: float) -> float:
    """Return the share of the final zeros at `progress` in [0, 1]: 1 - (1 - t)³.

    Zhu and Gupta 2017, "To prune, or not to prune", equation 1.

    >>> cubic_schedule(0.0), cubic_schedule(0.5), cubic_schedule(1.0)
    (0.0, 0.875, 1.0)
    """
    return 1.0 - (1.0 - min(max(progress, 0.0), 1.0)) ** 3
