"""The caller's ids for the items that a model scores, one for each column of its output."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.column_names import check_columns_exist
from recprune_export.data.tabular_files import collect, is_parquet, read_column_names, scan
from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl

COLUMN, ID = "column", "id"  # the columns of a file with ids
NO_ITEM, NO_ITEM_TEXT = -1, ""  # the id of a rank without an item


@dataclass(frozen=True)
class ItemIds:
    """The id of each column: `values` [columns] are int64 or strings; `is_item` [columns] is false for padding and unknown values."""

    values: np.ndarray
    is_item: np.ndarray

    @property
    def dtype(self) -> str:
        """The dtype in a signature."""
        return "str" if self.values.dtype.kind == "U" else "int64"

    @property
    def no_item(self) -> int | str:
        """The id of a rank without an item."""
        return NO_ITEM_TEXT if self.dtype == "str" else NO_ITEM

    def without(self, columns: Sequence[int]) -> "ItemIds":
        """Return the ids with some columns marked as no items."""
        is_item = self.is_item.copy()
        is_item[list(columns)] = False
        return ItemIds(self.values, is_item)


def make_column_ids(columns: int) -> ItemIds:
    """Return the numbers of the columns as ids.

    >>> make_column_ids(3).values.tolist()
    [0, 1, 2]
    """
    return ItemIds(np.arange(columns, dtype=np.int64), np.ones(columns, dtype=bool))


def make_vocabulary_ids(values: Sequence[str], first: int) -> ItemIds:
    """Return the ids of a vocabulary whose first value has column `first`; the columns before are no items.

    They are integers if each value is spelled as one and none is negative, otherwise strings.

    >>> make_vocabulary_ids(["12", "7"], 1).values.tolist(), make_vocabulary_ids(["a", "7"], 1).values.tolist()
    ([-1, 12, 7], ['', 'a', '7'])
    """
    import polars as pl

    ids = _to_integers(pl.Series(values, dtype=pl.String))
    if ids is not None and (ids < 0).any():
        ids = None
    return _place([None] * first + (list(values) if ids is None else ids.tolist()), is_text=ids is None)


def read_item_ids(path: Path, columns: int) -> ItemIds:
    """Read the id of each of `columns` columns of an output; a column without an id (null) is no item.

    The file has a row for each: `column`, its number from 0, and `id`, an integer or a text. Ids in CSV are integers if each is spelled
    as one. Other columns of the file are not read.

    Raises `DataError` if the rows do not match the columns, two ids are equal, or a value is not an id.
    """
    check_columns_exist(path, (COLUMN, ID), read_column_names(path), "which --item-ids reads")
    table = collect(scan(path, text=(ID,), columns=(COLUMN, ID)), path)
    numbers = table[COLUMN]
    if not numbers.dtype.is_integer() or numbers.sort().to_list() != list(range(columns)):
        raise DataError(
            f"{path} has {len(table):,} rows for the {columns:,} columns of the output: give one for each `column`, 0 to {columns - 1}, "
            "with no id (null) for padding and unknown items."
        )
    series = table.sort(COLUMN)[ID]
    values, is_text = parse_ids(path, series)
    no_item = NO_ITEM_TEXT if is_text else NO_ITEM
    if no_item in values:
        raise DataError(
            f"{path} has the id {no_item!r}, which is reserved for an absent item: give this item another id."
        )
    if all(value is None for value in values):
        raise DataError(f"{path} contains no id, so there is nothing to rank.")
    return _place(values, is_text=is_text)


def parse_ids(path: Path, ids: "pl.Series") -> tuple[list[int | str | None], bool]:
    """Return the ids in a column of a file, integers or strings, and whether they are strings; in CSV all are read as strings.

    Raises `DataError` if two are equal, or a value is not an id.
    """
    import polars as pl

    if not ids.dtype.is_integer() and ids.dtype not in (pl.String, pl.Categorical):
        raise DataError(f"The ids in {path} are of the type {ids.dtype}: give integers or strings.")
    repeated = ids.drop_nulls().filter(ids.drop_nulls().is_duplicated())
    if len(repeated):
        raise DataError(f"{path} has the id {repeated[0]!r} more than once: the ids of items must be unique.")
    if ids.dtype.is_integer():
        if (ids.drop_nulls().cast(pl.Int128) > np.iinfo(np.int64).max).any():
            raise DataError(f"{path} has ids above 2^63 - 1: write them as strings.")
        return ids.to_list(), False
    texts = ids.cast(pl.String)
    is_text = is_parquet(path) or _to_integers(texts.drop_nulls()) is None
    return (texts if is_text else texts.cast(pl.Int64)).to_list(), is_text


def _to_integers(texts: "pl.Series") -> "np.ndarray | None":
    """Return strings as int64 if each is spelled as such an integer, otherwise None."""
    import polars as pl

    integers = texts.cast(pl.Int64, strict=False)
    if integers.null_count() or not (integers.cast(pl.String) == texts).all():
        return None
    return integers.to_numpy()


def _place(values: Sequence[int | str | None], *, is_text: bool) -> ItemIds:
    no_item: int | str = NO_ITEM_TEXT if is_text else NO_ITEM
    placed = [no_item if value is None else value for value in values]
    array = np.array(placed, dtype=np.str_ if is_text else np.int64)
    return ItemIds(array, np.array([value is not None for value in values]))
