"""Masks of unstructured sparsity: the least important single weights are set to zero and stay zero.

Zeros make a file compress better; no operator of ONNX Runtime runs faster with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recprune_export.finetuning.curvature import Curvature
from recprune_export.program.program import Program
from recprune_export.pruning.allocation.parameter_counts import ParameterCounts


@dataclass(frozen=True)
class NonZeroTarget:
    """The numbers of parameters that may be non-zero, in the tables and in the rest."""

    tables: int
    rest: int

    @classmethod
    def from_sparsity(cls, dense: ParameterCounts, tables: float, rest: float) -> "NonZeroTarget":
        """Return the target of a sparsity of the tables and of the rest of the dense parameters.

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
    """Return the numbers of parameters in the tables and in the rest, zeros included."""
    sizes = {name: p.numel() for name, p in program.parameters().items()}
    in_tables = sum(size for name, size in sizes.items() if name in tables)
    return in_tables, sum(sizes.values()) - in_tables


def compute_masks(
    program: Program,
    tables: frozenset[str],
    target: NonZeroTarget,
    curvature: Curvature | None = None,
) -> dict[str, Tensor]:
    """Return masks of the non-zero weights by parameter, so that tables and rest meet `target`; none if all weights may stay.

    The weights of the tables, and of the rest, compete with each other: by the loss without each if the `curvature` is given,
    else by magnitude relative to the root mean square of the tensor, since scales differ between layers. Vectors (biases,
    gains) stay whole as long as the matrices suffice.
    """
    masks: dict[str, Tensor] = {}
    importance = {
        name: p.square() / p.square().mean().clamp_min(1e-30) if curvature is None else p.square() * curvature[name]
        for name, p in ((name, p.detach()) for name, p in program.parameters().items())
    }
    for in_tables, allowed in ((True, target.tables), (False, target.rest)):
        masks |= _mask_weights({name: w for name, w in importance.items() if (name in tables) == in_tables}, allowed)
    return masks


def _mask_weights(importance: Mapping[str, Tensor], allowed: int) -> dict[str, Tensor]:
    """Return masks of the `allowed` most important weights, from the importance of each weight by parameter."""
    if allowed >= sum(p.numel() for p in importance.values()):
        return {}
    vectors = {name: p for name, p in importance.items() if p.ndim < 2}
    matrices = {name: p for name, p in importance.items() if p.ndim >= 2}
    for_matrices = allowed - sum(v.numel() for v in vectors.values())
    if for_matrices < 0:
        return _keep_largest(importance, max(allowed, 0))
    whole = {name: torch.ones_like(v, dtype=torch.bool) for name, v in vectors.items()}
    return whole | _keep_largest(matrices, for_matrices)


def _keep_largest(importance: Mapping[str, Tensor], allowed: int) -> dict[str, Tensor]:
    if not importance:
        return {}
    scores = torch.cat([values.flatten() for values in importance.values()])
    mask = torch.zeros(len(scores), dtype=torch.bool)
    mask[scores.topk(min(allowed, len(scores)), sorted=False).indices] = True
    masks = mask.split([values.numel() for values in importance.values()])
    return {name: m.reshape(importance[name].shape) for name, m in zip(importance, masks, strict=True)}


def apply_masks(program: Program, masks: Mapping[str, Tensor], sparse_tables: frozenset[str] = frozenset()) -> None:
    """Set masked weights to exact zero; in `sparse_tables` only in the rows that have a gradient."""
    with torch.no_grad():
        for name, parameter in program.parameters().items():
            if name not in masks:
                continue
            if name not in sparse_tables:
                parameter.masked_fill_(~masks[name], 0.0)
            elif parameter.grad is not None:
                rows = parameter.grad._indices()[0]  # may contain duplicates, which do no harm
                parameter[rows] = parameter[rows].masked_fill_(~masks[name][rows], 0.0)


def cubic_schedule(progress: float) -> float:
    """Return the share of the final zeros at `progress` in [0, 1]: 1 - (1 - t)³.

    Zhu and Gupta 2017, "To prune, or not to prune", equation 1.

    >>> cubic_schedule(0.0), cubic_schedule(0.5), cubic_schedule(1.0)
    (0.0, 0.875, 1.0)
    """
    return 1.0 - (1.0 - min(max(progress, 0.0), 1.0)) ** 3
