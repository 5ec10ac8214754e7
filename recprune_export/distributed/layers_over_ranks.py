"""Batch normalization and dropout in training over the rows of all processes, as one process applies them to the whole batch."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recprune_export.distributed.collectives import sum_integer, sum_over_ranks
from recprune_export.distributed.ranks import is_divided
from recprune_export.distributed.shares import take_share


def batch_norm_over_ranks(
    values: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    epsilon: float,
    cudnn_enabled: bool = False,
) -> Tensor:
    """Return the result of `aten.batch_norm`, with mean and variance of `values` [rows, channels, ...] over all processes in training."""
    if not (training and is_divided()):
        return F.batch_norm(values, running_mean, running_var, weight, bias, training, momentum, epsilon)
    axes = [axis for axis in range(values.ndim) if axis != 1]
    shape = [-1 if axis == 1 else 1 for axis in range(values.ndim)]
    count = sum_over_ranks(torch.tensor(values.numel() / max(values.shape[1], 1), dtype=torch.float64))
    mean = sum_differentiably(values.sum(axes)) / count.to(values.dtype)
    centered = values - mean.reshape(shape)
    variance = sum_differentiably(centered.square().sum(axes)) / count.to(values.dtype)
    with torch.no_grad():
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * (count / (count - 1).clamp_min(1)).to(values.dtype)
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    normalized = centered * (variance + epsilon).rsqrt().reshape(shape)
    if weight is not None:
        normalized = normalized * weight.reshape(shape)
    return normalized if bias is None else normalized + bias.reshape(shape)


def sum_differentiably(tensor: Tensor) -> Tensor:
    """Return the sum over all processes; its gradient is the sum of theirs."""
    result: Tensor = _SumDifferentiably.apply(tensor)
    return result


class _SumDifferentiably(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        return sum_over_ranks(tensor.detach().clone())

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return sum_over_ranks(gradients[0].clone())


def dropout_over_ranks(values: Tensor, probability: float) -> Tensor:
    """Return the result of dropout for the rows of this process, [rows, ...], equal to that of one process for the whole batch."""
    rows = sum_integer(len(values))
    kept = values.new_empty(rows, *values.shape[1:]).bernoulli_(1.0 - probability).div_(1.0 - probability)
    return values * take_share(kept)


@contextmanager
def layers_over_ranks(module: nn.Module) -> Iterator[None]:
    """Inside the block, batch-norms and dropout of a module act in training as on the whole batch."""
    changed: list[nn.Module] = []
    for layer in module.modules() if is_divided() else ():
        forward = _FORWARDS.get(type(layer))
        if forward is not None:
            layer.forward = partial(forward, layer)
            changed.append(layer)
    try:
        yield
    finally:
        for layer in changed:
            del layer.__dict__["forward"]


def _normalize(norm: Any, values: Tensor) -> Tensor:
    training = norm.training or norm.running_mean is None
    if norm.training and norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return batch_norm_over_ranks(
        values, norm.weight, norm.bias, norm.running_mean, norm.running_var, training, norm.momentum, norm.eps
    )


def _drop(layer: Any, values: Tensor) -> Tensor:
    return dropout_over_ranks(values, layer.p) if layer.training and layer.p > 0.0 else values


_FORWARDS: Mapping[type[nn.Module], Callable[..., Tensor]] = {nn.BatchNorm1d: _normalize, nn.Dropout: _drop}
