"""Columns of vectors, as several numbers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from recprune_export.data.schema.schema import VectorColumn
from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl


def fit_vectors(frame: "pl.LazyFrame", vector: VectorColumn) -> tuple[dict[str, float], dict[str, float]]:
    """Return mean and standard deviation of each number of the vectors, by the names `name_0`, ... ."""
    values = _read(frame, vector)
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    means = np.where(known, values, 0.0).sum(axis=0) / count
    squares = np.where(known, values - means, 0.0) ** 2
    stds = np.sqrt(squares.sum(axis=0) / count)
    names = [f"{vector.name}_{i}" for i in range(vector.size)]
    return (
        dict(zip(names, means.tolist(), strict=True)),
        dict(zip(names, np.where(stds > 0.0, stds, 1.0).tolist(), strict=True)),
    )


def read_vectors(
    frame: "pl.LazyFrame", vector: VectorColumn, means: Mapping[str, float], stds: Mapping[str, float]
) -> np.ndarray:
    """Return the vectors centered and scaled, float64 [B, size]; 0 where a vector or one of its numbers is missing.

    Raises `DataError` if a vector has another length.
    """
    names = [f"{vector.name}_{i}" for i in range(vector.size)]
    values = (_read(frame, vector) - [means[name] for name in names]) / [stds[name] for name in names]
    return np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)


def _read(frame: "pl.LazyFrame", vector: VectorColumn) -> np.ndarray:
    """Return the vectors as float64 [B, size], NaN where a vector or one of its numbers is missing."""
    import polars as pl

    column = frame.select(pl.col(vector.name).cast(pl.List(pl.Float64))).collect(engine="streaming")[vector.name]
    lengths = column.list.len()
    other = ((lengths != vector.size) & lengths.is_not_null()).fill_null(False)
    if other.any():
        row = int(other.arg_max() or 0)
        raise DataError(
            f"The column '{vector.name}' contains {lengths[row]} numbers at row {row} (and {int(other.sum()) - 1:,} more rows), "
            f"but the model expects vectors of {vector.size}."
        )
    values = np.full((len(column), vector.size), np.nan)
    known = column.is_not_null().to_numpy()
    values[known] = column.drop_nulls().explode().to_numpy().reshape(-1, vector.size)
    return values
