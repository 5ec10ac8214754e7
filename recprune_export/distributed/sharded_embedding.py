"""`ShardedEmbedding`: an embedding table that is divided by rows among processes, with the same initial weights as a whole table."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import ceil

import torch
from torch import Tensor, nn

from recprune_export.distributed.row_shards import (
    RowShard,
    count_numbers,
    find_shard,
    gather_table,
    is_sharded_size,
    mark_shard,
)
from recprune_export.distributed.sharded_lookup import BeforeRead, sharded_lookup

CHUNK = 1 << 20  # the number of values drawn in one chunk; PyTorch draws them in blocks of 16
_sharding: ContextVar[bool] = ContextVar("sharding", default=False)


@contextmanager
def sharded_tables() -> Iterator[None]:
    """Recommenders that are built inside the block hold their long tables in shards, if there are several processes."""
    token = _sharding.set(True)
    try:
        yield
    finally:
        _sharding.reset(token)


def builds_in_shards(rows: int, width: int) -> bool:
    """Return whether a table that is created now is sharded."""
    return _sharding.get() and is_sharded_size(rows, width)


class ShardedEmbedding(nn.Module):
    """The rows of this process of a table of `rows` rows and `width` dimensions, looked up by all processes together.

    The initial weights are those of `nn.Embedding` after `nn.init.normal_(std=std)`, drawn chunk by chunk, and the generator is left
    as it would be. Row 0 is zero and gets no gradient if the table is `padded`. `before_read` is called with the rows of the
    shard that are about to be read.
    """

    def __init__(self, rows: int, width: int, std: float, padded: bool) -> None:
        super().__init__()
        self.shard = RowShard.of(rows)
        for _ in _draw_normal(rows, width, 1.0):  # nn.Embedding also draws these first
            pass
        weight = torch.empty(len(self.shard), width)
        position = 0
        for first, drawn in _draw_normal(rows, width, std):
            own = drawn[(self.shard.number - first) % self.shard.processes :: self.shard.processes]
            weight[position : position + len(own)] = own
            position += len(own)
        if padded and self.shard.number == 0:
            weight[0] = 0.0
        self.weight = nn.Parameter(weight)
        mark_shard(self.weight, self.shard)
        self._padding_id = 0 if padded else -1
        self.before_read: BeforeRead | None = None

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of `ids` [...] as [..., D]."""
        return sharded_lookup(self.weight, ids, self.shard, self._padding_id, self.before_read)


def _draw_normal(rows: int, width: int, std: float) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row and the rows of each chunk of `torch.empty(rows, width).normal_(std=std)`, bit for bit.

    PyTorch transforms blocks of 16 uniform numbers, and draws the last 16 of a tensor again if they are not a whole block.
    """
    step = 16 * ceil(CHUNK / (16 * width))  # rows, so that a chunk is whole blocks
    start = 0
    while start < rows:
        end = rows if rows - start < 2 * step else start + step
        yield start, torch.empty(end - start, width).normal_(std=std)
        start = end


def gather_state(module: nn.Module) -> dict[str, Tensor]:
    """Return the state of a module, with whole tables in place of shards: in the first process; in the others, their own state.

    Memory: see `gather_table`.
    """
    state = dict(module.state_dict())
    for name, parameter in module.named_parameters():
        if (table := _whole(parameter)) is not None:
            state[name] = table
    return state


def _whole(parameter: Tensor) -> Tensor | None:
    return None if find_shard(parameter) is None else gather_table(parameter, everywhere=False)


def count_parameters_of_all(module: nn.Module) -> int:
    """Return the number of parameters of a module, those of all shards."""
    return sum(count_numbers(parameter) for parameter in module.parameters())
