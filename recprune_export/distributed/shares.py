"""Shares of a batch: process r takes every N-th row from r on, and the answers of all processes are gathered in the order of the
batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from recprune_export.distributed.collectives import gather_bytes, pack_rows, sum_over_ranks, unpack_rows
from recprune_export.distributed.ranks import is_divided, rank, world_size

ArrayT = TypeVar("ArrayT", Tensor, np.ndarray)
ORDER = "positions of rows"  # a key with the labels, if the rows of outputs are not dealt in turn: int64 [rows]


def take_share(rows: ArrayT) -> ArrayT:
    """Return the rows of this process, every N-th of [rows, ...].

    >>> take_share(torch.arange(3))
    tensor([0, 1, 2])
    """
    return rows[rank() :: world_size()]


def gather_shares(tensors: Sequence[Tensor], order: Tensor | None = None) -> list[Tensor]:
    """Return the rows of all processes, of tensors with the same number of rows here, by one collective.

    They are in the order of the batch: dealt in turn, or by `order`, int64 [rows], if that is given. Gradients flow to the rows of this
    process.
    """
    if not is_divided() or not tensors:
        return list(tensors)
    result: tuple[Tensor, ...] = _GatherShares.apply(order, *tensors)
    return list(result)


class _GatherShares(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, order: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
        sent = list(tensors) if order is None else [*tensors, order]
        parts = gather_bytes(pack_rows(sent))
        pieces = [unpack_rows(part, sent) for part in parts]
        counts = [len(part) for part in parts]
        whole = [torch.cat(columns) for columns in zip(*pieces, strict=True)]
        positions = _deal(counts) if order is None else whole[-1]
        rows = positions.argsort(stable=True)
        start = sum(counts[: rank()])
        inverse = torch.empty_like(rows)
        inverse[rows] = torch.arange(len(rows))
        context.own = inverse[start : start + counts[rank()]]  # the present positions of the rows of this process
        outputs = tuple(tensor[rows] for tensor in whole[: len(tensors)])
        context.mark_non_differentiable(*(o for o in outputs if not o.is_floating_point()))
        return outputs

    @staticmethod
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, *(None if g is None else g[context.own] for g in gradients))


def _deal(counts: Sequence[int]) -> Tensor:
    """Return the position in the batch of each row, by rank: the j-th of N processes' row i is row i·N + j.

    >>> _deal([2, 1]).tolist()
    [0, 2, 1]
    """
    return torch.cat([torch.arange(count) * len(counts) + number for number, count in enumerate(counts)])


def gather_answers(groups: Sequence[Mapping[str, Tensor]], order: Tensor | None = None) -> list[dict[str, Tensor]]:
    """Return each of `groups`, tensors by name with the same rows, with the rows of all processes, by one collective."""
    if not is_divided():
        return [dict(group) for group in groups]
    whole = iter(gather_shares([tensor for group in groups for tensor in group.values()], order))
    return [{name: next(whole) for name in group} for group in groups]


def add_losses(loss: Tensor) -> Tensor:
    """Return the sum over all processes of the loss of their rows, whose gradient is only that of the rows of this process."""
    if not is_divided():
        return loss
    known = loss.detach()
    return loss + (sum_over_ranks(known.clone()) - known)


Predict = Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]


class SharedPredict(Protocol):
    """A predictor that all processes call together."""

    def __call__(self, request: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]: ...


def share_prediction(predict: Predict) -> SharedPredict:
    """Return a predictor that all processes call with the same request: each answers its share, and all get all outputs.

    Each process computes the whole answer to a request with fewer rows than processes.
    """

    def answer(request: dict[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if not is_divided() or min(len(values) for values in request.values()) < world_size():
            return predict(request)
        answers = predict({name: take_share(values) for name, values in request.items()})
        tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in answers.items()}
        (whole,) = gather_answers([tensors])
        return {name: tensor.numpy() for name, tensor in whole.items()}

    return answer
