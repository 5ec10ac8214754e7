"""Convert a batch of rows in memory to columns of polars, and scores to the type of the batch.

A batch is arrays by name, a frame of polars or pandas, a Table or RecordBatch of pyarrow, or another object with the Arrow PyCapsule
interface (`__arrow_c_stream__`); for the last, the scores are a frame of polars, which also has this interface.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recprune_export.column_names import check_columns_exist
from recprune_export.data.named_columns import as_column
from recprune_export.errors import DataError, UsageError
from recprune_export.prediction.score_columns import ScoreColumn
from recprune_export.prediction.scorer import to_series

if TYPE_CHECKING:
    import polars as pl

BATCH_NAME = "the batch"


def read_arrays(arrays: Mapping[str, Any], shared: Collection[str]) -> dict[str, Any]:
    """Return arrays of equal length; in columns of `shared`, which all candidates share, one value applies to all rows.

    Raises `DataError` if other lengths differ.
    """
    columns = {name: np.asarray(values)[None] if _is_scalar(values) else values for name, values in arrays.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    others = [name for name in columns if name not in shared] or [*columns]
    rows = lengths[others[0]] if others else 0
    for name, count in lengths.items():
        if count == 1 != rows and name in shared:
            columns[name] = np.repeat(np.asarray(columns[name]), rows, axis=0)
        elif count != rows:
            raise DataError(
                f"The arrays of {BATCH_NAME} differ in length: '{others[0]}' has {rows:,} rows and '{name}' has {count:,}."
            )
    return columns


def to_frame(batch: Any, names: Collection[str] | None) -> "pl.DataFrame":
    """Return the columns `names` of a batch, or all. Raises `UsageError` for another kind of object."""
    import polars as pl

    if isinstance(batch, pl.LazyFrame):
        raise UsageError(
            "The batch is a polars LazyFrame: give a DataFrame with some of its rows, as from collect_batches()."
        )
    if isinstance(batch, pl.DataFrame):
        return batch.select(names or batch.columns)
    if isinstance(batch, Mapping):
        return pl.DataFrame([_to_series(name, batch[name]) for name in names or batch])
    if _is_pandas(batch):
        return pl.DataFrame([_to_series(str(name), batch[name]) for name in names or batch.columns])
    if _is_pyarrow(batch):  # columns that are not read are not converted
        return pl.DataFrame(batch.select([*names]) if names else batch)
    if hasattr(batch, "__arrow_c_stream__") or hasattr(batch, "__arrow_c_array__"):
        return pl.DataFrame(batch).select(names or pl.all())
    raise UsageError(
        f"The batch is of type {type(batch).__name__}: give arrays by name, a polars or pandas DataFrame, or an Arrow table."
    )


def list_columns(batch: Any) -> tuple[str, ...]:
    """Return the names of the columns of a batch. Raises `UsageError` for another kind of object."""
    if isinstance(batch, Mapping):
        return tuple(batch)
    named = batch.schema if _is_pyarrow(batch) else batch
    names = (
        getattr(named, "names" if _is_pyarrow(batch) else "columns", None) if not hasattr(batch, "collect") else None
    )
    if names is None or callable(names):
        names = to_frame(batch, None).columns
    return tuple(map(str, names))


def make_result(batch: Any, keep: Sequence[str], columns: Sequence[ScoreColumn], values: Sequence[np.ndarray]) -> Any:
    """Return the columns `keep` of a batch, unchanged, and the scores [rows, ...] of each column, in the type of the batch.

    Raises `DataError` if the batch has no column of `keep`.
    """
    if isinstance(batch, Mapping):
        check_columns_exist(BATCH_NAME, keep, batch, "which keep= names")
        return {name: batch[name] for name in keep} | _name_scores(columns, values)
    if _is_pandas(batch):
        return _make_pandas(batch, keep, columns, values)
    if _is_pyarrow(batch):
        return _make_pyarrow(batch, keep, columns, values)

    import polars as pl

    frame = batch if isinstance(batch, pl.DataFrame) else pl.DataFrame(batch)
    check_columns_exist(BATCH_NAME, keep, frame.columns, "which keep= names")
    return pl.DataFrame([*(frame[name] for name in keep), *map(to_series, columns, values)])


def _name_scores(columns: Sequence[ScoreColumn], values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    return {c.column: v if c.inner else v.reshape(len(v)) for c, v in zip(columns, values, strict=True)}


def _make_pandas(batch: Any, keep: Sequence[str], columns: Sequence[ScoreColumn], values: Sequence[np.ndarray]) -> Any:
    import pandas as pd

    check_columns_exist(BATCH_NAME, keep, map(str, batch.columns), "which keep= names")
    scores = {name: [*each] if each.ndim > 1 else each for name, each in _name_scores(columns, values).items()}
    frame = pd.DataFrame(scores, index=batch.index)
    return pd.concat([batch[[*keep]], frame], axis=1) if keep else frame


def _make_pyarrow(batch: Any, keep: Sequence[str], columns: Sequence[ScoreColumn], values: Sequence[np.ndarray]) -> Any:
    import pyarrow as pa

    check_columns_exist(BATCH_NAME, keep, batch.schema.names, "which keep= names")
    arrays = [batch.column(name) for name in keep]
    for column, each in zip(columns, values, strict=True):
        array = pa.array(each.ravel())
        for size in reversed(column.inner):
            offsets = np.arange(0, len(array) + 1, size, dtype=np.int32)
            array = pa.ListArray.from_arrays(offsets, array)
        arrays.append(array)
    return type(batch).from_arrays(arrays, names=[*keep, *(column.column for column in columns)])


def _is_scalar(values: Any) -> bool:
    return getattr(values, "ndim", 1) == 0 or isinstance(values, str | bytes) or not hasattr(values, "__len__")


def _to_series(name: str, values: Any) -> "pl.Series":
    """Return a column of a batch. Raises `DataError` if it has objects of several types."""
    import polars as pl

    if isinstance(values, pl.Series):
        return values.alias(name)
    try:
        column = pl.Series(name, values) if isinstance(values, list | tuple) else as_column(name, values)
        return column.alias(name) if isinstance(column, pl.Series) else pl.Series(name, column)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise DataError(
            f"The column '{name}' of {BATCH_NAME} contains values of several types: convert them."
        ) from error


def _is_pandas(batch: Any) -> bool:
    return type(batch).__module__.partition(".")[0] == "pandas" and hasattr(batch, "index")


def _is_pyarrow(batch: Any) -> bool:
    return type(batch).__module__.partition(".")[0] == "pyarrow" and hasattr(batch, "num_rows")
