"""Columns of lists of different lengths, as matrices in which absent elements are marked."""

from typing import TYPE_CHECKING, Any

import numpy as np

from recprune_export.errors import DataError

if TYPE_CHECKING:
    import polars as pl

ABSENT = -1  # in a matrix of integers; NaN in one of floats


def absent_value(dtype: np.dtype) -> float:
    """Return what stands for an absent element."""
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
    """Return which elements of a matrix [rows, most, ...] the rows have, as booleans [rows, most]; NumPy or PyTorch.

    >>> find_present(np.array([[4, 7], [-1, -1]])).tolist(), find_present(np.array([[0.5, np.nan]])).tolist()
    ([[True, True], [False, False]], [[True, False]])
    """
    first = values.reshape((*values.shape[:2], -1))[..., 0] if values.ndim > 2 else values
    return first == first if "float" in str(values.dtype) else first >= 0


def read_lists(path: str, column: "pl.Series") -> np.ndarray:
    """Return a column of lists of numbers as a matrix [rows, most]. Raises `DataError` for a row or an element without a value."""
    import polars as pl

    name = column.name
    if column.null_count():
        row = int(np.argmax(column.is_null().to_numpy()))
        raise DataError(
            f"'{name}' in {path} has no list in row {row}: write an empty list where there are no elements."
        )
    counts = column.list.len().to_numpy().astype(np.int64)
    elements = column.filter(column.list.len() > 0).explode()
    if elements.null_count() or isinstance(elements.dtype, pl.List):
        raise DataError(
            f"The lists of '{name}' in {path} hold missing values or lists: write one number for each element."
        )
    if not elements.dtype.is_numeric():
        raise DataError(
            f"The lists of '{name}' in {path} hold {elements.dtype}: write the numbers that the model takes."
        )
    values = elements.to_numpy()
    values = values.astype(np.float64) if values.dtype.kind == "O" else values
    if values.dtype.kind in "iu" and values.size and int(values.min()) < 0:
        raise DataError(f"The lists of '{name}' in {path} hold the number {int(values.min())}: elements are 0 or more.")
    return to_matrix(values.astype(np.int64) if values.dtype.kind in "iu" else values, counts)
