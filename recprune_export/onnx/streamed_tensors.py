"""Streamed tables as constants of a graph: they are written to its file row by row, and are never in memory as a whole."""

from typing import BinaryIO

import numpy as np
import onnx_ir as ir
import torch

from recprune_export.onnx.mapped_tensors import split_rows
from recprune_export.program.streamed_tables.streamed_table import StreamedTable, read_whole


class StreamedTensor(ir.TensorProtocol):
    """A constant whose numbers are those of a streamed table; `tofile` writes them in chunks of rows."""

    is_streamed = True  # passes treat its numbers as unknown

    def __init__(self, table: StreamedTable, like: ir.TensorProtocol) -> None:
        self._table = table
        self.name, self.dtype, self.shape = like.name, like.dtype, like.shape
        self.doc_string: str | None = None
        self.metadata_props: dict[str, str] = {}
        self.meta: dict[str, object] = {}
        self.raw = table

    @property
    def size(self) -> int:
        """The number of elements."""
        return self._table.numel()

    @property
    def nbytes(self) -> int:
        """The number of bytes."""
        return self._table.nbytes

    def numpy(self) -> np.ndarray:
        """Return all numbers. Raises `ModelError` if they do not fit into memory."""
        return np.asarray(read_whole(self._table, "a change of the ONNX graph reads all of its rows").numpy())

    def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
        return self.numpy() if dtype is None else self.numpy().astype(dtype)  # type: ignore[call-overload]

    def __dlpack__(self, *, stream: object = None) -> object:
        return self.numpy().__dlpack__(stream=stream)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0  # a CPU

    def tobytes(self) -> bytes:
        """Return the bytes of all numbers; the same error."""
        return self.numpy().tobytes()

    def tofile(self, file: BinaryIO) -> None:
        """Write the numbers. Memory: a chunk of rows."""
        table = self._table
        for rows in split_rows(len(table), table.shape[1] * table.dtype.itemsize):
            file.write(table.rows.read(rows.start, rows.stop).view(torch.uint8).numpy().data)


def replace_streamed_tables(model: ir.Model) -> None:
    """Make the constants of `model` that are streamed tables be written in chunks."""
    for value in model.graph.initializers.values():
        table = getattr(value.const_value, "raw", None)
        if isinstance(table, StreamedTable) and value.const_value is not None:
            value.const_value = StreamedTensor(table, value.const_value)
