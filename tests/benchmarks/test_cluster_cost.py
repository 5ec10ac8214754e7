"""The model of cost counts what the processes of the product send, and behaves as the formulas of its sources do."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import cluster_cost as cost
import simulate_cluster

IDS = st.lists(st.integers(0, 49), max_size=40)


@given(st.lists(IDS, min_size=1, max_size=5), st.sampled_from(cost.SHARDINGS), st.integers(1, 9))
def test_what_is_sent_is_received_and_all_different_ids_are_looked_up(
    ids: list[list[int]], sharding: str, width: int
) -> None:
    arrays = [np.array(rank, dtype=np.int64) for rank in ids]
    traffic = cost.count_exchange(arrays, 50, width, sharding)
    assert traffic.sent.sum() == traffic.received.sum()
    assert traffic.different.tolist() == [len(set(rank)) for rank in ids]
    assert traffic.asked.sum() == traffic.different.sum()
    away = sum(
        int(cost.find_owners(np.array([i]), 50, len(ids), sharding)[0]) != rank
        for rank, own in enumerate(ids)
        for i in set(own)
    )
    counts = 8 * len(ids) * (len(ids) - 1)
    assert traffic.sent.sum() == counts + away * (8 + 2 * 4 * width)


@given(st.integers(2, 64), st.integers(1, 10**6))
def test_an_all_reduce_sends_each_number_nearly_twice(ranks: int, size: int) -> None:
    assert size <= cost.count_all_reduce(size, ranks) < 2 * size
    assert cost.count_all_reduce(size, 1) == 0


@given(st.sampled_from([0.0, 0.7, 1.0, 1.2]), st.integers(2, 10**10))
def test_ids_lie_in_the_table_and_follow_the_law(exponent: float, rows: int) -> None:
    ids = cost.draw_ids(np.random.default_rng(0), rows, 4000, exponent)
    assert ids.min() >= 0
    assert ids.max() < rows
    if exponent == 1.0:  # half of the mass lies below the square root
        assert abs((ids + 1 < np.sqrt(rows + 1.0)).mean() - 0.5) < 0.3


def test_touched_pages_are_those_of_a_count() -> None:
    rows, width, draws = 40_000, 64, 20_000
    ids = cost.draw_ids(np.random.default_rng(0), rows, draws, 1.0)
    per_page = cost.PAGE // (4 * width)
    counted = len(np.unique(ids // per_page)) / (rows / per_page)
    assert cost.expect_touched_pages(rows, width, draws, 1.0) == pytest.approx(counted, rel=0.03)


def test_blocks_of_rows_leave_nearly_all_lookups_to_one_rank() -> None:
    balance = simulate_cluster.measure_balance(cost.Model((10**8,), 16, 1), 16, 2000)
    assert balance["block"] > 5 > 1.5 > balance["cyclic"]
    assert balance["hash"] < 1.5


@pytest.mark.skipif(find_spec("recprune_export.distributed") is None, reason="this checkout has no sharded lookup")
def test_two_processes_send_the_bytes_of_the_model_of_cost() -> None:
    check = simulate_cluster.compare_with_product(rows=3000, width=8, lookups=500)
    assert check["counted_bytes"] == check["predicted_bytes"]
