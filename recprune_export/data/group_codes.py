"""`encode_groups`: the values of a group column as codes, for metrics that are means over groups."""

from collections.abc import Sequence

import numpy as np

from recprune_export.column_names import check_columns_exist
from recprune_export.errors import DataError

NO_GROUP = -1  # the code of a row without a value


def require_group_column(source: object, name: str, columns: Sequence[str]) -> None:
    """Raise `DataError` if the column of --group is not among `columns`."""
    check_columns_exist(source, [name], columns, "given with --group")


def encode_groups(source: object, name: str, values: np.ndarray) -> np.ndarray:
    """Return codes from 0 for the values of a column, [N] of any type, and -1 for missing values, int64 [N].

    Raises `DataError` if a row has several values.

    >>> encode_groups("rows", "user", np.array(["b", None, "a", "b"], dtype=object)).tolist()
    [1, -1, 0, 1]
    """
    import polars as pl

    flat = values.reshape(-1) if values.ndim == 2 and values.shape[1] == 1 else values
    # polars does not accept text in an array of objects
    plain = [None if value != value else value for value in flat.tolist()] if flat.dtype == object else flat
    series = None if flat.ndim != 1 else pl.Series(name, plain, strict=False, nan_to_null=True)
    if series is None or series.dtype.is_nested():
        raise DataError(
            f"The column '{name}' of {source} contains several values in a row, but --group requires one value per row."
        )
    codes = series.cast(pl.String).rank("dense").cast(pl.Int64) - 1
    return codes.fill_null(NO_GROUP).to_numpy()
