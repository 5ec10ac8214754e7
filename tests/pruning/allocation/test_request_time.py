"""Predicted times grow with what is read, and know that rows of few bits are unpacked."""

from hypothesis import given
from hypothesis import strategies as st

from recprune_export.pruning.allocation.request_time import RequestTime
from recprune_export.pruning.statistics.read_counts import ReadCounts
from recprune_export.stored_bits import TABLE_BITS

BITS = st.sampled_from(TABLE_BITS)


@given(BITS, st.integers(8, 64), st.integers(1, 1024), st.floats(0.5, 50.0))
def test_wider_rows_more_lookups_and_larger_requests_take_longer(
    bits: int, dimensions: int, rows: int, lookups: float
) -> None:
    def predict(dimensions: int, rows: int, lookups: float) -> float:
        reads = ReadCounts({"table": lookups}, {"layer": 1.0})
        return RequestTime(reads, rows).predict_table("table", (5_000, dimensions), bits)

    time = predict(dimensions, rows, lookups)
    assert time < min(predict(2 * dimensions, rows, lookups), predict(dimensions, 2 * rows, lookups))
    assert time < predict(dimensions, rows, 2 * lookups)


@given(st.integers(8, 64), st.integers(32, 1024))
def test_rows_in_bytes_are_slower_than_floats_and_unpacked_rows_are_slowest(dimensions: int, rows: int) -> None:
    time = RequestTime(ReadCounts({"table": 10.0}, {}), rows)
    by_bits = {bits: time.predict_table("table", (5_000, dimensions), bits) for bits in TABLE_BITS}
    assert max(by_bits[32], by_bits[16]) < by_bits[8] < min(by_bits[4], by_bits[2]) < by_bits[3]


def test_a_table_of_few_dimensions_takes_the_time_of_the_bits_that_it_really_gets() -> None:
    time = RequestTime(ReadCounts({"table": 1.0}, {}))
    assert time.predict_table("table", (7_000, 3), 3) == time.predict_table("table", (7_000, 3), 4)


def test_a_table_that_is_never_looked_up_has_no_start() -> None:
    time = RequestTime(ReadCounts({}, {"table": 1.0}))
    assert time.predict_table("table", (100, 8), 4) == time.predict_table("table", (100, 8), 32) > 0.0
