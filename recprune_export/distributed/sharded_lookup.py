"""`sharded_lookup`: rows of a sharded table, fetched from the processes that store them.

Each process sends every id that its rows need once to the process that holds it, and receives the row; in the backward pass it sends the
sum of the gradients of each row to that process. The gradient of a shard is sparse in its rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recprune_export.distributed.collectives import exchange
from recprune_export.distributed.row_shards import RowShard

# is called with the rows of the shard that are about to be read, [U], possibly with duplicates
BeforeRead = Callable[[Tensor], None]


def sharded_lookup(
    weight: Tensor,
    ids: Tensor,
    shard: RowShard,
    padding_id: int = -1,
    before_read: BeforeRead | None = None,
) -> Tensor:
    """Return the rows of `ids` [...] of the table whose shard is `weight` [rows of the shard, D], as [..., D].

    All processes call it at the same time, each with its ids, possibly none. `padding_id` gets no gradient. For U distinct ids it sends
    8·U bytes of ids, and, in each direction, one row for each id that another process stores.
    """
    result: Tensor = _ShardedLookup.apply(weight, ids, shard, padding_id, before_read)
    return result


@dataclass(frozen=True)
class _Request:
    """The ids that this process requests from each process, and the rows that others request from it.

    `order` [U] sorts the distinct ids by the process that holds them; `position` [...] is that of each id among the distinct ones;
    `asked` [U] and `received` are counts by rank; `rows` are the requested rows of this shard.
    """

    order: Tensor
    position: Tensor
    asked: list[int]
    received: list[int]
    rows: Tensor

    @classmethod
    def make(cls, ids: Tensor, shard: RowShard) -> "_Request":
        different, position = torch.unique(ids, return_inverse=True)
        owner = different % shard.processes
        order = owner.argsort(stable=True)
        asked = torch.bincount(owner, minlength=shard.processes)
        ones = [1] * shard.processes
        received = exchange(asked, ones, ones).tolist()
        rows = exchange(different[order], asked.tolist(), received) // shard.processes
        return cls(order, position, asked.tolist(), received, rows)


class _ShardedLookup(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, weight: Tensor, ids: Tensor, shard: RowShard, padding_id: int, before_read: BeforeRead | None
    ) -> Tensor:
        _check_ids(ids, shard)
        request = _Request.make(ids, shard)
        if before_read is not None:
            before_read(request.rows)
        fetched = exchange(weight.detach()[request.rows], request.received, request.asked)
        vectors = torch.empty_like(fetched)
        vectors[request.order] = fetched
        context.request, context.shape, context.padding_id = request, weight.shape, padding_id
        context.shard = shard
        return vectors[request.position]

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        request: _Request = context.request
        flat = gradient.reshape(-1, gradient.shape[-1])
        sums = flat.new_zeros(len(request.order), flat.shape[1]).index_add_(0, request.position.reshape(-1), flat)
        received = exchange(sums[request.order], request.asked, request.received)
        rows = request.rows
        if context.padding_id >= 0 and context.padding_id % context.shard.processes == context.shard.number:
            known = rows != context.padding_id // context.shard.processes
            rows, received = rows[known], received[known]
        # Each row once: Adam is given the gradient of the whole batch.
        sparse = torch.sparse_coo_tensor(rows[None], received, context.shape, check_invariants=False)
        return sparse.coalesce(), None, None, None, None


def _check_ids(ids: Tensor, shard: RowShard) -> None:
    """Raise `IndexError` like a lookup in the whole table."""
    if len(ids.reshape(-1)) and not (int(ids.min()) >= 0 and int(ids.max()) < shard.rows):
        raise IndexError("index out of range in self")
