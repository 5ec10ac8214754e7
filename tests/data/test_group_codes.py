"""Codes of groups: equal values have equal codes in all splits, gaps have none, lists are refused."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.data import ArraySpec, load_arrays
from recprune_export.data.group_codes import NO_GROUP, encode_groups
from recprune_export.errors import DataError
from recprune_export.settings import RowSettings

VALUES = st.one_of(
    st.lists(st.one_of(st.none(), st.sampled_from(["u1", "u2", "", "ü"])), min_size=1, max_size=20),
    st.lists(st.one_of(st.none(), st.integers(-5, 5)), min_size=1, max_size=20),
    st.lists(st.one_of(st.none(), st.sampled_from([0.5, 1.0, float("nan")])), min_size=1, max_size=20),
    st.lists(st.booleans(), min_size=1, max_size=20),
)


@given(VALUES)
@settings(max_examples=60)
def test_two_rows_have_the_same_code_where_they_have_the_same_value(values: list[object]) -> None:
    codes = encode_groups("rows", "user", pl.Series(values, strict=False).to_numpy())
    for first, code in zip(values, codes, strict=True):
        missing = first is None or first != first
        assert (code == NO_GROUP) == missing
        assert missing or [c == code for c in codes] == [other == first for other in values]


def test_groups_of_arrays_follow_their_rows_into_the_splits() -> None:
    count = 90
    user = np.arange(count) % 7
    data = {"x": np.arange(count, dtype=np.float32), "click": np.arange(count) % 2, "user": user}
    read = load_arrays(data, [ArraySpec("x", "float32", ())], ["click"], 0, RowSettings(group="user"))
    for split in (read.train, read.valid, read.test):
        assert split.groups is not None
        assert split.groups.tolist() == user[split.inputs["x"].astype(int)].tolist()
    with pytest.raises(DataError, match=r"no column 'nobody', given with --group; its columns are x, click, user"):
        load_arrays(data, [ArraySpec("x", "float32", ())], ["click"], 0, RowSettings(group="nobody"))


def test_several_values_in_a_row_are_no_group(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="several values in a row"):
        encode_groups(tmp_path, "tags", np.zeros((4, 2)))


def test_a_gap_among_objects_may_be_nan() -> None:
    assert encode_groups("rows", "user", np.array(["a", float("nan"), None], dtype=object)).tolist() == [0, -1, -1]
