"""`RowShard`: the rows of a table that this process holds, and the assembly of whole tables. Of N processes, the one with rank r holds
the rows r, r + N, r + 2·N, ...

Vocabularies number frequent values first, so with blocks of rows the first process would do nearly all lookups
(docs/decisions/tables-in-shards.md).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from torch import Tensor

from recprune_export.distributed.collectives import gather_rows
from recprune_export.distributed.ranks import is_divided, rank, world_size
from recprune_export.file_tensor import empty_in_file

# Tables of at least this many bytes are sharded: docs/decisions/tables-in-shards.md
SHARD_BYTES = 1 << 26
CHUNK_BYTES = 1 << 24  # of a table that is assembled, in one chunk


@dataclass(frozen=True)
class RowShard:
    """Every `processes`-th row of a table of `rows` rows, from `number` on."""

    rows: int
    number: int
    processes: int

    @classmethod
    def of(cls, rows: int) -> "RowShard":
        """Return the shard of this process."""
        return cls(rows, rank(), world_size())

    def __len__(self) -> int:
        """The number of rows in the shard.

        >>> [len(RowShard(5, number, 2)) for number in (0, 1)]
        [3, 2]
        """
        return len(range(self.number, self.rows, self.processes))

    def take(self, table: Tensor) -> Tensor:
        """Return a copy of the rows of the shard from a table [rows, ...]."""
        return table[self.number :: self.processes].clone()


_ATTRIBUTE = "row_shard"


def mark_shard(weight: Tensor, shard: RowShard) -> None:
    """Mark a tensor as the rows of a shard."""
    setattr(weight, _ATTRIBUTE, shard)


def find_shard(weight: Tensor) -> RowShard | None:
    """Return the shard that a tensor holds, None for a whole tensor."""
    return getattr(weight, _ATTRIBUTE, None)


def count_numbers(weight: Tensor) -> int:
    """Return the number of elements of a tensor, including all shards of a table."""
    shard = find_shard(weight)
    return weight.numel() if shard is None else shard.rows * prod(weight.shape[1:])


def is_sharded_size(rows: int, width: int, itemsize: int = 4) -> bool:
    """Return whether a table of this size is sharded in this run."""
    return is_divided() and rows * width * itemsize >= SHARD_BYTES


def gather_table(weight: Tensor, *, everywhere: bool) -> Tensor | None:
    """Return a row-sharded table as a whole, in the first process or in all; None in the others.

    It is in an unnamed, memory-mapped temporary file if the disk has room for it. Additional memory: a chunk of rows of each process.
    """
    shard = find_shard(weight)
    assert shard is not None
    whole = empty_in_file((shard.rows, *weight.shape[1:]), weight.dtype) if everywhere or rank() == 0 else None
    for start, chunk in _chunks(weight, shard):
        for number, part in enumerate(gather_rows(chunk)):
            if whole is not None:
                first = start * shard.processes + number
                whole[first : first + len(part) * shard.processes : shard.processes] = part
    return whole


def _chunks(weight: Tensor, shard: RowShard) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row in the shard, and rows, as often in each process: a last chunk may be empty."""
    longest = -(-shard.rows // shard.processes)
    step = max(1, CHUNK_BYTES // max(1, weight.element_size() * prod(weight.shape[1:]) * shard.processes))
    for start in range(0, longest, step):
        yield start, weight.detach()[start : start + step]
