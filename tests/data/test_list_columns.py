"""Columns of lists of different lengths become matrices; what is no list of numbers is refused by name."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recprune_export.data.list_columns import ABSENT, read_lists
from recprune_export.errors import DataError


@given(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=8))
def test_absent_elements_are_marked(lists: list[list[int]]) -> None:
    matrix = read_lists("rows", pl.Series("ids", lists, dtype=pl.List(pl.Int64)))
    assert [row[row != ABSENT].tolist() for row in matrix] == lists


def test_numbers_that_are_absent_are_nan() -> None:
    matrix = read_lists("rows", pl.Series("x", [[0.5], [], [1.5, 2.5]]))
    np.testing.assert_array_equal(matrix, [[0.5, np.nan], [np.nan, np.nan], [1.5, 2.5]])


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([[1], None], "has no list in row 1"),
        ([[1], [None]], "contain missing values"),
        ([["a"]], "contain String"),
        ([[3, -2]], "contain the number -2"),
    ],
)
def test_other_values_are_refused(values: list[object], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        read_lists("rows.parquet", pl.Series("ids", values))
