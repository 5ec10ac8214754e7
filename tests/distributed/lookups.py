"""What each process does in the tests of sharded lookups."""

import numpy as np
import torch
from torch import Tensor

from recprune_export.distributed import RowShard, rank, sharded_lookup, sum_over_ranks, traffic

WIDTH = 3


def ids_of(seed: int, number: int, rows: int, most: int) -> Tensor:
    """Ids [rows, 2] of one process, many of them twice; none for some."""
    rng = np.random.default_rng([seed, number])
    return torch.from_numpy(rng.integers(0, rows, size=(int(rng.integers(0, most + 1)), 2)))


def table_of(seed: int, rows: int) -> Tensor:
    return torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def look_up(seed: int, rows: int, most: int, padding_id: int) -> tuple[Tensor, Tensor]:
    """Return the sums of bags of two ids and single lookups of the same table, and the gradient of the shard, dense."""
    shard = RowShard.of(rows)
    weight = shard.take(table_of(seed, rows)).requires_grad_()
    ids = ids_of(seed, rank(), rows, most)
    bags = sharded_lookup(weight, ids, shard, padding_id).sum(1)
    singles = sharded_lookup(weight, ids[:, 0], shard)
    (bags.square().sum() + singles.pow(3).sum()).backward()
    gradient = weight.grad
    assert gradient is not None
    assert gradient.is_sparse
    return torch.cat([bags, singles], 1).detach(), gradient.to_dense()


def look_up_out_of_range() -> str:
    shard = RowShard.of(5)
    try:
        sharded_lookup(torch.zeros(len(shard), 2), torch.tensor([5]), shard)
    except IndexError as error:
        return str(error)
    return ""


def count_traffic(rows: int) -> tuple[int, int]:
    """Return the bytes that a lookup of one id of each process sends, and those of a sum."""
    shard = RowShard.of(rows)
    before = traffic.sent_bytes
    sharded_lookup(torch.zeros(len(shard), WIDTH, dtype=torch.float64), torch.tensor([1]), shard)
    after = traffic.sent_bytes
    sum_over_ranks(torch.zeros(10))
    return after - before, traffic.sent_bytes - after
