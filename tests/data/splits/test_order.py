"""A column that orders rows sorts as numbers or in time, whatever its type; anything else is refused with an example."""

import datetime
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.data.splits import parse_order
from recprune_export.errors import DataError

INSTANTS = st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2100, 1, 1))
HOURS = st.integers(-12, 14)


def ranks(values: list[object]) -> list[int]:
    return [sorted(set(values)).index(value) for value in values]  # type: ignore[type-var]


def parsed_ranks(values: list[object]) -> list[int]:
    return ranks(parse_order("log.csv", pl.Series("t", values)).to_list())


@given(st.lists(st.integers(-(10**12), 10**12), min_size=1))
def test_text_of_integers_sorts_as_integers(values: list[int]) -> None:
    assert parsed_ranks([f" {value}" for value in values]) == ranks(values)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_text_of_numbers_sorts_as_numbers(values: list[float]) -> None:
    assert parsed_ranks([str(value) for value in values]) == ranks(values)


@settings(max_examples=30)
@given(st.lists(st.tuples(INSTANTS, st.sampled_from(["T", " "]), HOURS), min_size=1))
def test_iso_times_of_any_zone_sort_as_instants(times: list[tuple[datetime.datetime, str, int]]) -> None:
    texts = []
    for instant, separator, hours in times:
        zone = datetime.timezone(datetime.timedelta(hours=hours))
        texts.append(instant.replace(tzinfo=datetime.UTC).astimezone(zone).isoformat(separator))
    assert parsed_ranks(texts) == ranks([instant for instant, *_ in times])


@pytest.mark.parametrize(
    "values",
    [
        ["9", "10", "11"],
        ["2026-01-09", "2026-01-10T00:00", "2026-01-10 00:00:00.5"],
        ["2026-01-10T01:00:00+02:00", "2026-01-09T23:30:00Z", "2026-01-09 23:31:00-0030"],
        ["20260109", "20260110", "2026-01-11"],
        ["1600-01-01", "2026-01-01", "9999-12-31"],
        [datetime.date(2026, 1, 9), datetime.date(2026, 1, 10), datetime.date(2026, 2, 1)],
        [datetime.timedelta(hours=9), datetime.timedelta(hours=10), datetime.timedelta(days=1)],
        [Decimal("9.5"), Decimal("10.25"), Decimal("10.5")],
    ],
)
def test_each_kind_of_time_sorts_from_the_oldest(values: list[object]) -> None:
    assert parsed_ranks(values) == [0, 1, 2]


def test_a_missing_time_is_null() -> None:
    for values in (["9", "", None], [1.5, float("nan"), None], ["2026-01-09", " ", None]):
        assert parse_order("log.csv", pl.Series("t", values, strict=False)).is_null().to_list() == [False, True, True]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["9", "10", "yesterday"], "neither a number nor an ISO date or time in 1 of 3 rows, such as 'yesterday'"),
        (["2026-01-09", "2026-02-30"], "in 1 of 2 rows, such as '2026-02-30'"),
        (["01/02/2026"], "such as '01/02/2026'"),
        (["2026-01-09T10:00Z", "2026-01-09T10:00"], "a time zone in 1 rows and none in others"),
        ([[1], [2]], r"contains List\(Int64\)"),
        ([True, False], "contains Boolean"),
        ([1.0, float("inf")], "infinity in 1 of them"),
    ],
)
def test_a_column_without_an_order_is_refused_with_an_example(values: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_order("log.csv", pl.Series("t", values))
