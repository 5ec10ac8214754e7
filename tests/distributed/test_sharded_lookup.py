"""A lookup in shards gives what one in the whole table gives, and so do its gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch.nn import functional as F

from recprune_export.distributed import RowShard
from tests.distributed.lookups import (
    count_traffic,
    ids_of,
    look_up,
    look_up_out_of_range,
    table_of,
)
from tests.distributed.processes import Processes


def check_lookups(processes: Processes, seed: int, rows: int, most: int, padding_id: int) -> None:
    results = processes.call(look_up, seed, rows, most, padding_id)
    table = table_of(seed, rows).requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for number, (answers, _) in enumerate(results):
        ids = ids_of(seed, number, rows, most)
        bags = F.embedding(ids, table, padding_idx=padding_id if padding_id >= 0 else None).sum(1)
        singles = F.embedding(ids[:, 0], table)
        torch.testing.assert_close(answers, torch.cat([bags, singles], 1).detach(), rtol=0, atol=0)
        total = total + bags.square().sum() + singles.pow(3).sum()
    total.backward()
    for number, (_, gradient) in enumerate(results):
        whole = torch.zeros_like(table) if table.grad is None else table.grad
        torch.testing.assert_close(
            gradient, RowShard(rows, number, processes.count).take(whole), rtol=1e-12, atol=1e-12
        )


@given(st.integers(0, 1000), st.integers(1, 12), st.sampled_from([0, 1, 6]), st.sampled_from([-1, 0]))
@hypothesis_settings(max_examples=40)
def test_two_processes(two: Processes, seed: int, rows: int, most: int, padding_id: int) -> None:
    check_lookups(two, seed, rows, most, padding_id)


@given(st.integers(0, 1000), st.integers(1, 12), st.sampled_from([0, 1, 6]))
@hypothesis_settings(max_examples=15)
def test_three_processes_of_which_some_hold_no_row(three: Processes, seed: int, rows: int, most: int) -> None:
    check_lookups(three, seed, rows, most, -1)


def test_an_id_out_of_range_is_refused_as_in_a_whole_table(two: Processes) -> None:
    assert two.call(look_up_out_of_range) == ["index out of range in self"] * 2


def test_the_bytes_that_are_sent_are_counted(two: Processes) -> None:
    (first, of_sum), (second, _) = two.call(count_traffic, 4)
    assert of_sum == 10 * 4  # 2·(N-1)/N of ten float32
    # A count of 8 bytes; the first process sends its id to the second one, which sends it back, and to itself, the row.
    assert (first, second) == (8 + 8, 8 + 3 * 8)


@pytest.mark.parametrize("rows", [1, 7, 8])
def test_shards_are_all_rows_once(rows: int) -> None:
    table = torch.arange(rows)[:, None]
    shards = [RowShard(rows, number, 3) for number in range(3)]
    parts = [shard.take(table) for shard in shards]
    assert [len(part) for part in parts] == [len(shard) for shard in shards]
    assert sorted(torch.cat(parts).flatten().tolist()) == list(range(rows))
