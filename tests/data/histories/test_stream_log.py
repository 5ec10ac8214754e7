"""Histories in files are those in memory: the same users, items, targets, notes, encoders, order and errors."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recprune_export.data.histories import sort_by_user
from recprune_export.data.histories.history_source import HistorySource, shuffle_histories
from recprune_export.data.rows import Rows
from recprune_export.data.schema.schema import Schema, SequenceColumns, Split
from recprune_export.data.sequences import SequenceData, load_sequences
from recprune_export.data.streaming import row_sides
from recprune_export.errors import RecpruneError
from recprune_export.settings import DataSettings

SCHEMA = Schema(sequence=SequenceColumns("user", "item", "at", max_length=4))
USERS: dict[str, list[Any]] = {
    "integers": [3, 1, 10, 2, None],
    "texts": ["b", "a", " ", "10", "9", None, "ü"],
    "floats": [1.5, 2.0, float("nan"), -3.0, 0.0, -0.0],
    "booleans": [True, False, None],
}
ITEMS: dict[str, list[Any]] = {
    "integers": list(range(7)),
    "texts": ["x", "y", "z", "NA", "", " ", None, "12.0", "12"],
    "floats": [1.0, 2.5, None, float("nan")],
}
TIMES: dict[str, list[Any]] = {
    "integers": [*range(20), None],
    "floats": [0.5, 1.5, 2.5, 3.5, float("nan"), None],
    "infinity": [0.5, 1.5, 2.5, 3.5, float("inf")],
    "texts of integers": [*map(str, range(8, 12)), " ", None],
    "texts of floats": ["1.5", "10", "9.25", "nan", ""],
    "dates": ["2024-01-02", "2024-01-10", "2023-12-31T10:00", "2024-02-01 00:00:00.5", None],
    "zones": ["2024-01-02T00:00Z", "2024-01-02T01:00+01:00", "2024-01-02 03:00-0200", "2024-01-05T00:00Z"],
    "far dates": ["1600-01-01", "2024-01-02", "9999-12-31", "2024-01-02T00:00:00.000000001"],
    "a zone in some": ["2024-01-02T00:00Z", "2024-01-02T00:00", "2024-01-03"],
    "a word in some": ["2024-01-02", "monday", "2024-01-03", "tuesday"],
    "booleans": [True, False],
}  # fmt: skip


def make_log(random: np.random.Generator, count: int, users: str, items: str, times: str) -> pl.DataFrame:
    def draw(name: str, values: list[Any]) -> pl.Series:
        return pl.Series(name, [values[i] for i in random.integers(0, len(values), count)], strict=False)

    return pl.DataFrame([draw("user", USERS[users]), draw("item", ITEMS[items]), draw("at", TIMES[times])])


def outcome(function: Callable[[], SequenceData]) -> SequenceData | str:
    try:
        return function()
    except RecpruneError as error:
        return f"{type(error).__name__}: {error}"


def list_batches(histories: HistorySource, seed: int) -> list[list[list[int]]]:
    batches = shuffle_histories(histories, 2, np.random.default_rng(seed), seed)
    return [[batch[i].tolist() for i in range(len(batch))] for batch in batches]


def assert_same_rows(rows: Rows, others: Rows) -> None:
    for arrays, wanted in ((rows.inputs, others.inputs), (rows.labels, others.labels)):
        assert arrays.keys() == wanted.keys()
        for name, values in arrays.items():
            assert values.dtype == wanted[name].dtype
            np.testing.assert_array_equal(values, wanted[name])
    assert rows.excluded_items is not None
    assert others.excluded_items is not None
    np.testing.assert_array_equal(rows.excluded_items.values, others.excluded_items.values)
    np.testing.assert_array_equal(rows.excluded_items.offsets, others.excluded_items.offsets)


def assert_same(one: SequenceData | str, other: SequenceData | str) -> None:
    if isinstance(one, str) or isinstance(other, str):
        assert one == other
        return
    assert (one.notes, one.split_description, one.sizes) == (other.notes, other.split_description, other.sizes)
    assert one.encoder.to_dict() == other.encoder.to_dict()
    assert list_batches(one.train, 3) == list_batches(other.train, 3)
    for side, expected in ((one.valid, other.valid), (one.test, other.test)):
        for seed in (None, 3):
            for batch, whole in zip(side.batches(2, seed), expected.batches(2, seed), strict=True):
                assert_same_rows(batch, whole)
        assert_same_rows(side.sample(3, 1), expected.sample(3, 1))


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 2**20),
    count=st.integers(0, 120),
    users=st.sampled_from(sorted(USERS)),
    items=st.sampled_from(sorted(ITEMS)),
    times=st.sampled_from(sorted(TIMES)),
    in_time=st.booleans(),
    run_rows=st.integers(1, 50),
    chunk_rows=st.integers(1, 40),
)
def test_streamed_histories_equal_those_in_memory(
    seed: int, count: int, users: str, items: str, times: str, in_time: bool, run_rows: int, chunk_rows: int
) -> None:
    log = make_log(np.random.default_rng(seed), count, users, items, times)
    schema = replace(SCHEMA, split=Split(time="at") if in_time else Split(), missing=("z",))
    with TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        path = Path(name, "log.parquet")
        log.write_parquet(path, row_group_size=17)
        patch.setattr(row_sides, "CHUNK_ROWS", chunk_rows)
        patch.setattr(sort_by_user, "RUN_ROWS", run_rows)
        patch.setattr(sort_by_user, "SAMPLE_ROWS", max(1, run_rows // 4))

        def load(stream: bool, encoder: Any = None) -> SequenceData | str:
            return outcome(lambda: load_sequences(path, schema, encoder, DataSettings(stream=stream)))

        in_memory = load(stream=False)
        assert_same(load(stream=True), in_memory)
        if not isinstance(in_memory, str):
            known = in_memory.encoder.items.to_list()[1:]  # one item is new
            encoder = replace(in_memory.encoder, items=type(in_memory.encoder.items)(known, 1))
            assert_same(load(stream=True, encoder=encoder), load(stream=False, encoder=encoder))
