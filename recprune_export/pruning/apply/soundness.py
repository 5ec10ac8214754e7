"""The soundness check: the pruned program equals the original with the removed channels masked.

The masked program is the original graph, with zeros in the removed slices of its parameters and in the lookups of
removed fields; both are run in float64 on two batch sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recprune_export.codec import ToDictMixin
from recprune_export.errors import PruningError
from recprune_export.program.program import Program, sample_request_tensors
from recprune_export.pruning.apply.masking import Float64Interpreter, make_mask
from recprune_export.pruning.apply.resize import MASKED_SUM
from recprune_export.pruning.plan import Plan

TOLERANCE = 1e-9  # of the largest output, in float64; a wrong channel gives a far larger error
BATCHES = (1, 6)
ROUNDINGS = 4.0  # of several sums at the same time, each in the worst direction


@dataclass(frozen=True)
class Soundness(ToDictMixin):
    """The largest difference between masked and pruned outputs, relative to the largest output."""

    error: float
    tolerance: float
    batches: tuple[int, ...]

    def combine(self, earlier: "Soundness | None") -> "Soundness":
        """Return the worse of two steps."""
        if earlier is None:
            return self
        return Soundness(max(self.error, earlier.error), max(self.tolerance, earlier.tolerance), self.batches)


def check_soundness(program: Program, plan: Plan, pruned: Program) -> Soundness:
    """Compare `pruned` with the masked `program`.

    Raises `PruningError` if they differ: the analysis or the rewrite is wrong for this model.
    """
    single_precision = 1e-6  # for a pruned program with a sum of masked values, which is rounded to single precision
    most_rounding = 1e-3
    reference = Float64Interpreter(program, make_mask(program.analysis, plan.removed(program.analysis)))
    candidate = Float64Interpreter(pruned)
    worst = 0.0
    for seed, batch in enumerate(BATCHES):
        tensors = sample_request_tensors(program.signature, batch, seed)
        worst = max(worst, largest_difference(reference(*tensors), candidate(*tensors)))
    rounded = [name for name, _ in pruned.module.named_buffers() if name.startswith(MASKED_SUM)]
    tolerance = single_precision if rounded else TOLERANCE
    if rounded and worst > tolerance:  # a model may magnify the rounding of these sums
        tolerance = min(max(tolerance, ROUNDINGS * _measure_rounding(program, pruned, rounded)), most_rounding)
    if not worst <= tolerance:
        raise PruningError(
            f"The pruned model differs from the masked one by {worst:.1e} of its largest output, so nothing was written. "
            "This is a bug in the channel analysis: please report the model; until it is fixed, use another plan."
        )
    return Soundness(worst, tolerance, BATCHES)


def _measure_rounding(program: Program, pruned: Program, names: Sequence[str]) -> float:
    """Return the change of the outputs if each number of the named buffers changes by the rounding error of float32."""
    generator = torch.Generator().manual_seed(0)
    buffers = dict(pruned.module.named_buffers())
    changed: dict[str, Tensor] = {}
    for name in names:
        signs = torch.randint(0, 2, buffers[name].shape, generator=generator).double() * 2 - 1
        changed[name] = buffers[name].double() * (1 + signs * torch.finfo(torch.float32).eps / 2)
    exact, rounded = Float64Interpreter(pruned), Float64Interpreter(pruned.with_tensors(changed))
    requests = (sample_request_tensors(program.signature, batch, seed) for seed, batch in enumerate(BATCHES))
    return max(largest_difference(exact(*tensors), rounded(*tensors)) for tensors in requests)


def largest_difference(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    """Return the largest error relative to the largest output; values that are not finite must be the same."""
    worst = 0.0
    for one, other in zip(expected, actual, strict=True):
        if one.shape != other.shape:
            return float("inf")
        finite = one.isfinite()
        if not torch.equal(finite, other.isfinite()) or not torch.equal(_kinds(one[~finite]), _kinds(other[~finite])):
            return float("inf")
        if finite.any():
            one, other = one[finite].double(), other[finite].double()
            worst = max(worst, float((one - other).abs().max() / one.abs().max().clamp_min(1e-30)))
    return worst


def _kinds(values: Tensor) -> Tensor:
    """Return NaN, infinity and minus infinity as comparable numbers."""
    return values.nan_to_num(nan=0.0, posinf=1.0, neginf=-1.0)
