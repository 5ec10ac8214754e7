"""Recalibration of a pruned program's batch-norm statistics, kept if it brings the program closer to the dense model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F

from recprune_export.channels.analysis import Analysis
from recprune_export.distributed.collectives import sum_integer, sum_number
from recprune_export.distributed.gradients import sum_tensors
from recprune_export.program.canonical import tensor_at
from recprune_export.program.nodes import argument
from recprune_export.program.program import Program
from recprune_export.pruning.plan import Plan
from recprune_export.pruning.reconstruction.paired_runs import CallSample, SplitSamples

aten = torch.ops.aten


@dataclass(frozen=True)
class LayerReconstruction:
    """One layer or batch-norm, and its mean squared error against the dense layer on held-out batches, before and after."""

    layer: str
    before: float
    after: float


@dataclass(frozen=True)
class BatchNormCall:
    """The only call of a batch-norm, and the names of its statistics and of its gain and offset."""

    call: str
    mean: str
    variance: str
    gain: str | None
    offset: str | None
    epsilon: float


def find_batch_norms(program: Program) -> dict[str, BatchNormCall]:
    """Return the batch-norms with running statistics that are called once, by the name of their running mean."""
    norms: dict[str, BatchNormCall] = {}
    calls: dict[str, int] = {}
    for node in program.module.graph.nodes:
        if node.target is not aten.batch_norm.default:
            continue
        mean, variance = (_name(argument(node, name)) for name in ("running_mean", "running_var"))
        if mean is None or variance is None:
            continue
        gain, offset = (_name(argument(node, name)) for name in ("weight", "bias"))
        calls[mean] = calls.get(mean, 0) + 1
        norms[mean] = BatchNormCall(node.name, mean, variance, gain, offset, float(argument(node, "eps")))
    return {name: norm for name, norm in norms.items() if calls[name] == 1}


def recalibrate_batch_norm(
    analysis: Analysis,
    plan: Plan,
    pruned: Program,
    norm: BatchNormCall,
    samples: SplitSamples,
) -> LayerReconstruction | None:
    """Set mean and variance to those of the inputs in `pruned`, unless the error on held-out batches grows.

    `norm` and `analysis` are those of the dense program. O(rows) in time; no more memory than a sample in double precision.
    """
    min_variance = 1e-8  # variance; a channel that is constant on the calibration data keeps its old variance
    remaining = _find_remaining_indices(analysis, plan, norm.call)  # by axis
    pruned_norm = find_batch_norms(pruned)[norm.mean]
    mean, variance = (tensor_at(pruned.module, name) for name in (pruned_norm.mean, pruned_norm.variance))
    if remaining is None or len(remaining.get(1, mean)) != len(mean):
        return None
    total, squares, count = torch.zeros(len(mean)).double(), torch.zeros(len(mean)).double(), 0
    for sample in samples.fit:
        (value,) = sample.pruned_inputs
        flat = value.movedim(1, -1).reshape(-1, len(mean)).double()
        total, squares, count = total + flat.sum(0), squares + flat.square().sum(0), count + len(flat)
    sum_tensors([total, squares])
    count = sum_integer(count)
    if count < 2:
        return None
    new_mean = total / count
    new_variance = (squares / count - new_mean.square()).clamp_min(0.0)
    new_variance = torch.where(new_variance > min_variance, new_variance, variance.double())
    old = _error(pruned, pruned_norm, remaining, samples.held_out, mean, variance)
    new = _error(pruned, pruned_norm, remaining, samples.held_out, new_mean, new_variance)
    if not new < old:
        return LayerReconstruction(norm.mean, old, old)
    with torch.no_grad():
        mean.copy_(new_mean)
        variance.copy_(new_variance)
    return LayerReconstruction(norm.mean, old, new)


def _error(
    pruned: Program,
    pruned_norm: BatchNormCall,
    remaining: Mapping[int, Tensor],
    samples: Sequence[CallSample],
    mean: Tensor,
    variance: Tensor,
) -> float:
    """Return the mean squared difference of both outputs in the remaining channels."""
    gain, offset = (
        None if name is None else tensor_at(pruned.module, name).detach()
        for name in (pruned_norm.gain, pruned_norm.offset)
    )
    total, count = 0.0, 0
    for sample in samples:
        (expected,), (value,) = sample.dense_outputs, sample.pruned_inputs
        actual = F.batch_norm(
            value, mean.to(value.dtype), variance.to(value.dtype), gain, offset, False, 0.0, pruned_norm.epsilon
        )
        for axis, indices in remaining.items():
            expected = expected.index_select(axis, indices)
        difference = actual - expected
        total, count = total + float(difference.double().square().sum()), count + difference.numel()
    return sum_number(total) / max(sum_integer(count), 1)


def _find_remaining_indices(analysis: Analysis, plan: Plan, call: str) -> dict[int, Tensor] | None:
    """Return the dense program's remaining indices of each axis that shrinks, or None if the analysis has no entry."""
    removed = plan.removed(analysis)
    sets: Any = analysis.removed_by.get(call)
    if not sets:
        return None
    return {
        axis: torch.tensor(
            [index for index, channels in enumerate(removers) if not channels & removed], dtype=torch.int64
        )
        for axis, removers in enumerate(sets)
        if removers is not None
    }


def _name(node: Any) -> str | None:
    return str(node.target) if isinstance(node, fx.Node) and node.op == "get_attr" else None
