"""Batch-norm statistics of a pruned program, taken anew on calibration data where that brings it nearer to the dense one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from recprune_export.channels.analysis import Analysis
from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import argument
from recprune_export.program.program import Program
from recprune_export.program.recorder import record_values
from recprune_export.pruning.plan import Plan
from recprune_export.pruning.statistics.moments import Batch

aten = torch.ops.aten
SMALLEST = 1e-8  # variance; of a channel that never moves there is nothing to learn


@dataclass(frozen=True)
class LayerReconstruction:
    """One layer or batch-norm, and its mean squared error against the dense layer on held-out batches, before and after."""

    layer: str
    before: float
    after: float


@dataclass(frozen=True)
class BatchNormCall:
    """The one call of a batch-norm, and the names of its statistics and of its gain and offset."""

    call: str
    mean: str
    variance: str
    gain: str | None
    offset: str | None
    epsilon: float


def find_batch_norms(program: Program) -> dict[str, BatchNormCall]:
    """Find the batch-norms with statistics of their own, by the name of their running mean."""
    found: dict[str, BatchNormCall] = {}
    calls: dict[str, int] = {}
    for node in program.module.graph.nodes:
        if node.target is not aten.batch_norm.default:
            continue
        mean, variance = (_name(argument(node, name)) for name in ("running_mean", "running_var"))
        if mean is None or variance is None:
            continue
        gain, offset = (_name(argument(node, name)) for name in ("weight", "bias"))
        calls[mean] = calls.get(mean, 0) + 1
        found[mean] = BatchNormCall(node.name, mean, variance, gain, offset, float(argument(node, "eps")))
    return {name: norm for name, norm in found.items() if calls[name] == 1}


def recalibrate_batch_norm(
    dense: Program,
    plan: Plan,
    pruned: Program,
    norm: BatchNormCall,
    call: str,
    fit_batches: Sequence[Batch],
    held_out_batches: Sequence[Batch],
) -> LayerReconstruction | None:
    """Set mean and variance to those of what `pruned` now puts in at `call`, unless they answer worse on `held_out_batches`."""
    kept = _find_remaining_indices(dense.analysis, plan, norm.call)  # by axis
    own = find_batch_norms(pruned)[norm.mean]
    mean, variance = (tensor_at(pruned.module, name) for name in (own.mean, own.variance))
    if kept is None or len(kept.get(1, mean)) != len(mean):
        return None
    total, squares, count = torch.zeros(len(mean)).double(), torch.zeros(len(mean)).double(), 0
    for request, _ in fit_batches:
        (value,) = record_call_inputs(pruned, request, [call])
        flat = value.movedim(1, -1).reshape(-1, len(mean)).double()
        total, squares, count = total + flat.sum(0), squares + flat.square().sum(0), count + len(flat)
    if count < 2:
        return None
    new_mean = total / count
    new_variance = (squares / count - new_mean.square()).clamp_min(0.0)
    new_variance = torch.where(new_variance > SMALLEST, new_variance, variance.double())
    old = _error(dense, pruned, norm, own, kept, held_out_batches, mean, variance)
    new = _error(dense, pruned, norm, own, kept, held_out_batches, new_mean, new_variance)
    if not new < old:
        return LayerReconstruction(norm.mean, old, old)
    with torch.no_grad():
        mean.copy_(new_mean)
        variance.copy_(new_variance)
    return LayerReconstruction(norm.mean, old, new)


def record_call_inputs(program: Program, request: Mapping[str, Tensor], calls: Sequence[str]) -> list[Tensor]:
    """Return what the layers of these names are given as `input` on one request, nothing run behind the last of it."""
    sources = {n.name: argument(n, "input").name for n in program.module.graph.nodes if n.name in calls}
    values = record_values(program, request, sources.values())
    return [values[sources[name]] for name in calls]


def _error(
    dense: Program,
    pruned: Program,
    norm: BatchNormCall,
    own: BatchNormCall,
    kept: Mapping[int, Tensor],
    batches: Sequence[Batch],
    mean: Tensor,
    variance: Tensor,
) -> float:
    """Mean squared difference of what both put out, in the channels that stay."""
    gain, offset = (
        None if name is None else tensor_at(pruned.module, name).detach() for name in (own.gain, own.offset)
    )
    total, count = 0.0, 0
    for request, _ in batches:
        wanted = record_values(dense, request, [norm.call])[norm.call]
        (value,) = record_call_inputs(pruned, request, [own.call])
        got = F.batch_norm(value, mean.to(value.dtype), variance.to(value.dtype), gain, offset, False, 0.0, own.epsilon)
        for axis, indices in kept.items():
            wanted = wanted.index_select(axis, indices)
        difference = got - wanted
        total, count = total + float(difference.double().square().sum()), count + difference.numel()
    return total / max(count, 1)


def _find_remaining_indices(analysis: Analysis, plan: Plan, call: str) -> dict[int, Tensor] | None:
    """The indices that stay on each axis that shrinks, as they are in the dense program; None where nothing is known."""
    removed = plan.removed(analysis)
    sets: Any = analysis.removed_by.get(call)
    if not sets:
        return None
    return {
        axis: torch.tensor([index for index, channels in enumerate(own) if not channels & removed], dtype=torch.int64)
        for axis, own in enumerate(sets)
        if own is not None
    }


def _name(node: Any) -> str | None:
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None
