"""Joined rows that are only read in batches are those of one array: all of them, once, in batches of the size that was asked for."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.data import Rows
from recprune_export.data.joined_rows import join_rows
from recprune_export.data.rows import Ragged
from tests.row_sources import BatchesOnly


def make_parts(sizes: list[int]) -> list[Rows]:
    starts = np.cumsum([0, *sizes])
    return [
        Rows(
            {"x": np.arange(start, start + size)},
            {"y": np.arange(start, start + size, dtype=np.float32)},
            Ragged(np.repeat(np.arange(start, start + size), 2), 2 * np.arange(size + 1)),
            weights=np.ones(size, dtype=np.float32),
        )
        for start, size in zip(starts, sizes, strict=False)
    ]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(1, 7), st.integers(0, 99))
@settings(max_examples=60)
def test_batches_are_those_of_one_array(sizes: list[int], size: int, seed: int) -> None:
    parts, total = make_parts(sizes), sum(sizes)
    joined = join_rows([BatchesOnly(part) for part in parts])
    assert len(joined) == total
    in_order = list(joined.batches(size))
    assert [len(batch) for batch in in_order] == [min(size, total - start) for start in range(0, total, size)]
    assert [x for batch in in_order for x in batch.inputs["x"]] == list(range(total))
    for batch in in_order:
        assert batch.excluded_items is not None
        assert batch.excluded_items.values.tolist() == np.repeat(batch.inputs["x"], 2).tolist()
    shuffled = list(joined.batches(size, seed))
    assert sorted(x for batch in shuffled for x in batch.labels["y"]) == list(range(total))
    assert [len(batch) for batch in shuffled] == [len(batch) for batch in in_order]
    again = [x for batch in joined.batches(size, seed) for x in batch.inputs["x"]]
    assert [x for batch in shuffled for x in batch.inputs["x"]] == again
    ranks = [list(joined.batches(size, seed, rank=rank, world_size=2)) for rank in range(2)]
    for batch, *of_ranks in zip(shuffled, *ranks, strict=True):
        assert sorted(np.concatenate([r.inputs["x"] for r in of_ranks])) == sorted(batch.inputs["x"])
    assert [len(joined.sample(count, seed)) for count in (0, total, total + 1)] == [0, total, total] or not total
    assert len(set(joined.sample(3, seed).inputs["x"]) if total else ()) == min(3, total)


def test_rows_in_memory_are_joined_in_memory() -> None:
    joined = join_rows(make_parts([2, 3]))
    assert isinstance(joined, Rows)
    assert joined.inputs["x"].tolist() == [0, 1, 2, 3, 4]


def test_a_shuffled_batch_has_rows_of_all_parts() -> None:
    joined = join_rows([BatchesOnly(part) for part in make_parts([600, 300])])
    first = next(joined.batches(90, 0))
    assert 40 <= (first.inputs["x"] < 600).sum() <= 80
