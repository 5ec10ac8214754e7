"""The ids of items are read from a file or a vocabulary, and refused where they do not fit."""

from pathlib import Path

import polars as pl
import pytest

from recprune_export.derived.top_k import make_vocabulary_ids, read_item_ids
from recprune_export.errors import DataError


def write(folder: Path, values: list[object], name: str = "items.parquet") -> Path:
    path = folder / name
    frame = pl.DataFrame({"column": range(len(values)), "id": values}).reverse()
    frame.write_csv(path) if path.suffix == ".csv" else frame.write_parquet(path)
    return path


def test_texts_with_leading_zeros_stay_texts(tmp_path: Path) -> None:
    ids = read_item_ids(write(tmp_path, ["007", "8"], "items.csv"), 2)
    assert (ids.dtype, ids.values.tolist()) == ("str", ["007", "8"])


def test_numbers_are_int64_and_a_null_is_no_item(tmp_path: Path) -> None:
    for name in ("items.csv", "items.parquet"):
        ids = read_item_ids(write(tmp_path, [None, 5, -7], name), 3)
        assert (ids.values.tolist(), ids.is_item.tolist()) == ([-1, 5, -7], [False, True, True])


def test_texts_of_digits_in_parquet_stay_texts(tmp_path: Path) -> None:
    assert read_item_ids(write(tmp_path, ["7", "8"]), 2).dtype == "str"


@pytest.mark.parametrize(
    ("values", "count", "sentence"),
    [
        ([1, 2], 3, "has 2 rows for the 3 columns of the output"),
        ([1, 1], 2, "has the id 1 more than once"),
        ([1, -1], 2, "has the id -1, which is reserved for an absent item"),
        (["a", ""], 2, "has the id '', which is reserved for an absent item"),
        ([1.5, 2.5], 2, "of the type Float64: give integers or strings"),
        ([None, None], 2, "of the type Null"),
        ([1 << 63], 1, r"ids above 2\^63 - 1"),
    ],
)
def test_ids_that_do_not_fit_are_refused(tmp_path: Path, values: list[object], count: int, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read_item_ids(write(tmp_path, values), count)


def test_a_column_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    pl.DataFrame({"column": [0, 0], "id": ["a", "b"]}).write_parquet(path)
    with pytest.raises(DataError, match="give one for each `column`, 0 to 1"):
        read_item_ids(path, 2)


def test_a_file_without_ids_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    pl.DataFrame({"column": [0, 1], "sku": ["a", "b"]}).write_csv(path)
    with pytest.raises(DataError, match="has no column 'id', which --item-ids reads"):
        read_item_ids(path, 2)


def test_a_vocabulary_of_negative_numbers_is_texts() -> None:
    assert make_vocabulary_ids(["-1", "2"], 1).values.tolist() == ["", "-1", "2"]


def test_ids_that_are_no_integers_or_texts_are_refused_as_such(tmp_path: Path) -> None:
    pl.DataFrame({"column": [0, 1], "id": [1.5, 1.5]}).write_parquet(tmp_path / "ids.parquet")
    with pytest.raises(DataError, match="are of the type Float64: give integers or strings"):
        read_item_ids(tmp_path / "ids.parquet", 2)
