"""The soundness check: the pruned program equals the original with the removed channels masked.

It shares no code with the rewrite. The masked program is the original graph, with zeros in the removed slices of its
parameters; both are run in float64 on two batch sizes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, fx

from recprune_export.channels.analysis import Analysis
from recprune_export.errors import PruningError
from recprune_export.program.canonical import tensor_at
from recprune_export.program.program import Program, example_tensors
from recprune_export.pruning.plan import Plan

TOLERANCE = 1e-9  # of the largest output, in float64; a wrong channel is off by far more
BATCHES = (1, 6)


@dataclass(frozen=True)
class Soundness:
    """The largest difference between masked and pruned outputs, relative to the largest output."""

    error: float
    tolerance: float
    batches: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def mask(program: Program, analysis: Analysis, plan: Plan) -> Program:
    """Return a copy of `program` with zeros in every parameter slice that the plan removes."""
    masked = program.copy()
    removed = plan.removed(analysis)
    indices: dict[tuple[str, int], list[int]] = {}
    for group in analysis.groups:
        for channel in group.channels:
            if channel.identity in removed:
                for s in channel.slices:
                    indices.setdefault((s.tensor, s.axis), []).append(s.index)
    with torch.no_grad():
        for (name, axis), gone in indices.items():
            tensor = tensor_at(masked.module, name)
            if isinstance(tensor, torch.nn.Parameter):
                tensor.index_fill_(axis, torch.tensor(gone), 0.0)
    return masked


def check_soundness(program: Program, analysis: Analysis, plan: Plan, pruned: Program) -> Soundness:
    """Compare `pruned` with the masked `program`.

    Raises `PruningError` where they differ: the analysis or the rewrite is wrong for this model.
    """
    reference, candidate = in_float64(mask(program, analysis, plan)), in_float64(pruned)
    worst = 0.0
    for seed, batch in enumerate(BATCHES):
        tensors = tuple(_widen(t) for t in example_tensors(program.signature, batch, seed))
        with torch.no_grad():
            worst = max(worst, _difference(reference.module(*tensors), candidate.module(*tensors)))
    if not worst <= TOLERANCE:
        raise PruningError(
            f"The pruned model differs from the masked one by {worst:.1e} of its largest output, so nothing was written. "
            "This is a fault of the channel analysis: please report the model, and prune it with another plan until then."
        )
    return Soundness(worst, TOLERANCE, BATCHES)


def in_float64(program: Program) -> Program:
    """Return a copy that computes in double precision, whatever precision its graph names."""
    double = program.copy()
    double.module.double()
    for node in double.module.graph.nodes:
        wide = fx.node.map_aggregate(
            (node.args, dict(node.kwargs)), lambda a: torch.float64 if a is torch.float32 else a
        )
        node.args, node.kwargs = wide
    double.module.recompile()
    return double


def _widen(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _difference(expected: Sequence[Tensor], actual: Sequence[Tensor]) -> float:
    worst = 0.0
    for one, other in zip(expected, actual, strict=True):
        if one.shape != other.shape:
            return float("inf")
        if one.numel():
            error = (one.double() - other.double()).abs().max() / one.double().abs().max().clamp_min(1e-30)
            worst = max(worst, float(error)) if bool(error.isfinite()) else float("inf")
    return worst
