"""Arrays with a number for each row: in memory or, beyond `MEMORY_ROWS` rows, in an unnamed, memory-mapped temporary file.

The system can reclaim pages of a file when memory is short, so the anonymous memory of metrics does not grow with the rows. Computations
on such arrays process pieces of `PIECE_ROWS` rows.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from recprune_export.output_files import map_temporary_file

MEMORY_ROWS = 1 << 19
PIECE_ROWS = 1 << 18


def make_row_array(rows: int, dtype: npt.DTypeLike, *columns: int) -> np.ndarray:
    """Return zeros of shape [rows, *columns].

    They are in memory if no temporary file can be reserved.
    """
    dtype, shape = np.dtype(dtype), (rows, *columns)
    pages = map_temporary_file(int(np.prod(shape)) * dtype.itemsize) if rows > MEMORY_ROWS else None
    return np.zeros(shape, dtype) if pages is None else np.asarray(pages).view(dtype).reshape(shape)


def split_rows_into_pieces(rows: int) -> Iterator[slice]:
    """Yield slices that cover `rows` rows in order; one empty slice if there are none.

    >>> list(split_rows_into_pieces(3))
    [slice(0, 3, None)]
    """
    for start in range(0, max(rows, 1), PIECE_ROWS):
        yield slice(start, min(start + PIECE_ROWS, rows))


def sum_over_rows(values: Callable[[slice], np.ndarray], rows: int) -> float:
    """Return the sum of the values of all rows, of which `values` computes those of a slice."""
    return float(sum(float(values(piece).sum()) for piece in split_rows_into_pieces(rows)))


def count_codes(codes: np.ndarray) -> int:
    """Return the number of codes from 0 to the largest one in an array, [N]; negative ones do not count."""
    return max(int(codes[piece].max(initial=-1)) for piece in split_rows_into_pieces(len(codes))) + 1


def count_by_code(codes: Callable[[slice], np.ndarray], rows: int, size: int) -> np.ndarray:
    """Return the number of occurrences of each code from 0 to `size` - 1, [size]; -1 means no code. `codes` returns those of a slice of
    `rows`."""
    counts: np.ndarray = np.zeros(size, dtype=np.int64)
    for piece in split_rows_into_pieces(rows):
        counts += np.bincount(codes(piece) + 1, minlength=size + 1)[1:]
    return counts


def take_rows(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the rows of `values`, [N, ...], that the `mask`, bool [N], selects."""
    count = int(sum_over_rows(lambda piece: mask[piece], len(mask)))
    taken, start = make_row_array(count, values.dtype, *values.shape[1:]), 0
    for piece in split_rows_into_pieces(len(mask)):
        chosen = values[piece][mask[piece]]
        taken[start : start + len(chosen)] = chosen
        start += len(chosen)
    return taken


def cumulate_in_place(values: np.ndarray) -> None:
    """Replace an array, [N], by its cumulative sums."""
    before = np.zeros((), dtype=values.dtype)
    for piece in split_rows_into_pieces(len(values)):
        part = values[piece]
        if len(part):
            part[0] += before
            np.cumsum(part, out=part)
            before = part[-1]


def are_equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether two arrays of rows have the same shape and values."""
    if one.shape != other.shape:
        return False
    return all(np.array_equal(one[piece], other[piece]) for piece in split_rows_into_pieces(len(one)))


def sort_rows(values: np.ndarray) -> np.ndarray:
    """Return a sorted copy of an array, [N]."""
    ordered = make_row_array(len(values), values.dtype)
    for piece in split_rows_into_pieces(len(values)):
        ordered[piece] = values[piece]
    ordered.sort()  # in place: no memory in addition to the array
    return ordered


def find_quantiles(values: np.ndarray, fractions: Any) -> np.ndarray:
    """Return the quantiles of an array, [N], as `numpy.quantile` does, without a copy of it in memory.

    >>> find_quantiles(np.array([4.0, 1.0, 2.0]), [0.5, 0.75]).tolist()
    [2.0, 3.0]
    """
    if len(values) <= MEMORY_ROWS:
        return np.asarray(np.quantile(values, fractions))
    ordered, places = sort_rows(values), np.asarray(fractions) * (len(values) - 1)
    below = np.floor(places).astype(np.int64)
    low, high = ordered[below], ordered[np.minimum(below + 1, len(values) - 1)]
    share = places - below
    return np.asarray(np.where(share < 0.5, low + (high - low) * share, high - (high - low) * (1.0 - share)))


class RowArrayWriter:
    """Puts the rows of batches into one array of at most `capacity` rows; shape and dtype are those of the first batch."""

    def __init__(self, capacity: int) -> None:
        self._capacity, self._count = capacity, 0
        self._values: np.ndarray | None = None

    def add(self, values: np.ndarray) -> None:
        """Add the rows of a batch, [B, ...]."""
        if self._values is None:
            self._values = make_row_array(self._capacity, values.dtype, *values.shape[1:])
        self._values[self._count : self._count + len(values)] = values
        self._count += len(values)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was added, not even a batch without rows."""
        return self._values is None

    @property
    def array(self) -> np.ndarray:
        """All rows that were added."""
        return np.zeros(0) if self._values is None else self._values[: self._count]
