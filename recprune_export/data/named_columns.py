"""Columns of a file, or arrays in memory, by name and as arrays."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recprune_export.data.csv_format import CsvOptions
from recprune_export.data.list_columns import read_lists
from recprune_export.data.npz import read_npz
from recprune_export.data.streaming.data_files import DataFile, as_data_source
from recprune_export.data.tabular_files import collect, scan
from recprune_export.errors import DataError, UsageError
from recprune_export.settings import DEFAULT_DATA_SETTINGS, DataSettings

if TYPE_CHECKING:
    import polars as pl

# name -> array, or anything that numpy.asarray accepts, such as a tensor or a column of pandas or polars
Columns = Mapping[str, Any]
IN_MEMORY = "the data"


@dataclass(frozen=True)
class NamedColumns:
    """Columns of a file, arrays of an `.npz`, or arrays in memory: their names, and a function that reads some of them.

    For tables in files, `source` is the path and `frame` its rows.
    """

    path: str
    names: tuple[str, ...]
    read: Callable[[Sequence[str]], Mapping[str, Any]]
    source: DataFile | None = None
    frame: "pl.LazyFrame | None" = None


def open_columns(data: Path | str | Columns, reading: DataSettings = DEFAULT_DATA_SETTINGS) -> NamedColumns:
    """Open a file or arrays in memory; only the requested columns of a table are read.

    Raises `DataError` if the file cannot be read, `UsageError` if `data` is neither a file nor arrays by name.
    """
    if isinstance(data, Path | str):
        path = as_data_source(data)
        if isinstance(path, Path) and _is_zip(path):
            arrays = read_npz(path)
            return NamedColumns(str(path), tuple(arrays), lambda names: arrays)
        frame = scan(path, CsvOptions(reading.separator, reading.encoding))
        return NamedColumns(
            str(path),
            tuple(frame.collect_schema().names()),
            lambda names: {series.name: series for series in collect(frame.select(names), path)},
            path,
            frame,
        )
    columns = data if isinstance(data, Mapping) else _frame_columns(data)
    return NamedColumns(IN_MEMORY, tuple(columns), lambda names: columns)


def _frame_columns(frame: Any) -> Columns:
    """Return the columns of a frame of pandas or polars by name."""
    if not hasattr(frame, "columns"):
        raise UsageError(f"The data is of type {type(frame).__name__}: give the path of a file, or arrays by name.")
    return {str(name): frame[name] for name in frame.columns}


def _is_zip(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(2) == b"PK"
    except OSError:
        return False  # `scan` raises the error


def stack_columns(
    table: "pl.DataFrame | Mapping[str, Any]",
    sources: Mapping[str, Sequence[str]],
    path: str = "the rows",
    jagged: Collection[str] = (),
) -> dict[str, np.ndarray]:
    """Return an array for each name, from one column or from several columns side by side; NaN where numbers are missing.

    Lists of a `jagged` column may differ in length: absent elements are -1, or NaN (`list_columns.py`).

    Raises `DataError` if the lists of a column, or the columns of one array, differ in length.
    """
    return {
        name: _jagged_column(path, name, table[columns[0]])
        if name in jagged and list(columns) == [name]
        else _column(name, table[columns[0]])
        if list(columns) == [name]
        else _stack(table, columns)
        for name, columns in sources.items()
    }


def _jagged_column(path: str, name: str, values: Any) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.dtype != object:
        return _column(name, values)

    import polars as pl

    column = values if isinstance(values, pl.Series) else as_column(name, values)
    if isinstance(column, pl.Series) and isinstance(column.dtype, pl.List | pl.Array):
        return read_lists(path, column.cast(pl.List(column.dtype.inner)))
    return _column(name, values)


def _stack(table: "pl.DataFrame | Mapping[str, Any]", names: Sequence[str]) -> np.ndarray:
    columns = [_column(name, table[name]) for name in names]
    shapes = {column.shape for column in columns}
    if len(shapes) > 1:
        raise DataError(f"The columns {names[0]} to {names[-1]} have different shapes: {sorted(shapes)}.")
    return np.stack(columns, 1)


def _column(name: str, values: Any) -> np.ndarray:
    if isinstance(values, np.ndarray) and values.dtype != object and not isinstance(values, np.ma.MaskedArray):
        return values  # so that arrays need no polars

    import polars as pl

    if not isinstance(values, pl.Series):
        values = as_column(name, values)
        if isinstance(values, np.ndarray):
            return values
    if isinstance(values.dtype, pl.List):
        length = refuse_uneven_lists(values.name, values.list.len().drop_nulls().unique().to_list())
        values = values.list.to_array(length)
    if values.dtype.is_decimal() or (values.dtype == pl.Boolean and values.null_count()):
        values = values.cast(pl.Float64)
    return values.to_numpy(writable=True)  # torch warns about read-only arrays


def refuse_uneven_lists(name: str, lengths: Sequence[int]) -> int:
    """Return the length of the lists of a column, given the distinct lengths.

    Raises `DataError` for several lengths, and for a column without a list.
    """
    if not lengths:
        raise DataError(f"The column '{name}' is empty in all rows: write a list of the same length in each row.")
    if len(lengths) > 1:
        raise DataError(
            f"The lists in column '{name}' have {min(lengths)} to {max(lengths)} elements, but the model takes the same number in "
            "each row: fill and cut the lists as in training, with the id that the model uses for padding."
        )
    return lengths[0]


def as_column(name: str, values: Any) -> "np.ndarray | pl.Series":
    """Return an array, or a column for an array of objects, in which None and the missing markers of pandas are missing values."""
    import polars as pl

    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(np.float64), np.nan) if np.ma.is_masked(values) else values.data
    array = np.asarray(values)
    if array.dtype != object:
        return array
    objects = [None if _is_missing(value) else value for value in array.tolist()]
    try:
        return pl.Series(name, objects)
    except (pl.exceptions.PolarsError, TypeError, ValueError):
        return array


def _is_missing(value: Any) -> bool:
    """Return whether an object is a missing value; pandas has NaN among strings."""
    is_nan = isinstance(value, float) and value != value
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")
