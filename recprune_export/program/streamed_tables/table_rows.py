"""`TableRows`: the rows of a table that is not in memory, and the changes of columns that can be made row by row."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor


class TableRows(ABC):
    """The rows of a table of shape [rows, columns]; `name` is that of its parameter, for messages."""

    name: str
    shape: tuple[int, int]
    dtype: torch.dtype

    @abstractmethod
    def read(self, start: int, stop: int) -> Tensor:
        """Return the rows from `start` to before `stop`, [stop - start, columns], in newly allocated memory."""

    @abstractmethod
    def gather(self, ids: Tensor) -> Tensor:
        """Return the rows of `ids`, [n] of int64 within the table, as [n, columns], in newly allocated memory."""

    def select_columns(self, columns: Tensor) -> "TableRows":
        """Return the rows of the columns `columns`, [n] of int64."""
        return _ChangedRows(self, lambda rows: rows.index_select(1, columns), len(columns), self.dtype)

    def to_dtype(self, dtype: torch.dtype) -> "TableRows":
        """Return the rows in another precision."""
        return self if dtype == self.dtype else _ChangedRows(self, lambda rows: rows.to(dtype), self.shape[1], dtype)

    def multiply_columns(self, positions: Tensor, matrix: Tensor) -> "TableRows":
        """Return the rows with the columns of each row of `positions`, [copies, D], multiplied by a matrix D×D from the right.

        The products are computed in float64, and rounded to the dtype of the table.
        """

        whole = torch.equal(positions, torch.arange(self.shape[1]).reshape(1, -1))

        def multiply(rows: Tensor) -> Tensor:
            if whole:
                return (rows.double() @ matrix).to(rows.dtype)
            for indices in positions:
                rows[:, indices] = (rows[:, indices].double() @ matrix).to(rows.dtype)
            return rows

        return _ChangedRows(self, multiply, self.shape[1], self.dtype)


class _ChangedRows(TableRows):
    """The rows of a table after a row-wise function, which may modify its argument."""

    def __init__(self, source: TableRows, change: Callable[[Tensor], Tensor], columns: int, dtype: torch.dtype) -> None:
        self._source, self._change = source, change
        self.name, self.shape, self.dtype = source.name, (source.shape[0], columns), dtype

    def read(self, start: int, stop: int) -> Tensor:
        return self._change(self._source.read(start, stop))

    def gather(self, ids: Tensor) -> Tensor:
        return self._change(self._source.gather(ids))
