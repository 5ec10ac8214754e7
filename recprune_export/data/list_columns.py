"""Columns of lists of different lengths, as matrices in which absent elements are marked."""

from typing import TYPE_CHECKING, Any

import numpy as np

from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl

ABSENT = -1  # in a matrix of integers; NaN in one of floats


def absent_value(dtype: np.dtype) -> float:
    """Return the value of an absent element."""
    return np.nan if dtype.kind == "f" else ABSENT


def to_matrix(elements: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return elements, one row after another, as a matrix [rows, most, ...].

    >>> to_matrix(np.array([4, 7, 5]), np.array([2, 0, 1])).tolist()
    [[4, 7], [-1, -1], [5, -1]]
    """
    width = max(int(counts.max(initial=0)), 1)
    matrix = np.full((len(counts), width, *elements.shape[1:]), absent_value(elements.dtype), dtype=elements.dtype)
    matrix[np.arange(width) < counts[:, None]] = elements
    return matrix


def find_present(values: Any) -> Any:
    """Return which elements of a matrix [rows, most, ...] are present, as booleans [rows, most]; NumPy or PyTorch.

    >>> find_present(np.array([[4, 7], [-1, -1]])).tolist(), find_present(np.array([[0.5, np.nan]])).tolist()
    ([[True, True], [False, False]], [[True, False]])
    """
    first = values.reshape((*values.shape[:2], -1))[..., 0] if values.ndim > 2 else values
    return first == first if "float" in str(values.dtype) else first >= 0


def read_lists(path: str, column: "pl.Series") -> np.ndarray:
    """Return a column of lists of numbers as a matrix [rows, most]. Raises `DataError` for a row or an element without a value."""
    check_lists(path, column.to_frame().lazy())
    counts = column.list.len().to_numpy().astype(np.int64)
    values = column.filter(column.list.len() > 0).explode().to_numpy()
    values = values.astype(np.float64) if values.dtype.kind == "O" else values
    return to_matrix(values.astype(np.int64) if values.dtype.kind in "iu" else values, counts)


def check_lists(path: object, column: "pl.LazyFrame") -> None:
    """Raise `DataError` for a row or an element of the list `column` without a value, or an element that is not a number of 0 or more."""
    import polars as pl

    name, dtype = next(iter(column.collect_schema().items()))
    inner = dtype.inner if isinstance(dtype, pl.List) else dtype
    row = column.with_row_index("__row").filter(pl.col(name).is_null()).select(pl.col("__row").min())
    first = row.collect(engine="streaming").item()
    if first is not None:
        raise DataError(
            f"'{name}' in {path} has no list in row {first}: write an empty list for a row without elements."
        )
    elements = column.filter(pl.col(name).list.len() > 0).explode(name)
    is_list = isinstance(inner, pl.List)
    if is_list or elements.select(pl.col(name).null_count()).collect(engine="streaming").item():
        raise DataError(
            f"The lists of '{name}' in {path} contain missing values or lists: write one number for each element."
        )
    if not (isinstance(inner, pl.DataType) and inner.is_numeric()):
        raise DataError(f"The lists of '{name}' in {path} contain {inner}: write the numbers that the model expects.")
    least = elements.select(pl.col(name).min()).collect(engine="streaming").item() if inner.is_integer() else None
    if least is not None and least < 0:
        raise DataError(f"The lists of '{name}' in {path} contain the number {least}: elements must be nonnegative.")
