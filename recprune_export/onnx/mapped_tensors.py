"""Tensors of a graph that are computed in chunks of rows and stored in an unnamed, memory-mapped temporary file.

The system can reclaim pages of the file when memory is short, so such a table is not a copy in memory. The file is deleted with the
tensor.
"""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
import onnx_ir as ir

from recprune_export.mapped_pages import limit_mapped_pages, register_map
from recprune_export.output_files import reserve_temporary_file

CHUNK_BYTES = 1 << 24  # of one chunk of rows
_OWNER = "tensors of an export"  # of their maps


def make_mapped_tensor(
    name: str, dtype: ir.DataType, shape: Sequence[int], make_chunks: Callable[[], Iterator[np.ndarray]]
) -> ir.LazyTensor:
    """Return a tensor whose content is computed at its first use, by `make_chunks`, which yields it in chunks.

    Time: that of the chunks, once. Memory: one chunk (see `write_map`).
    """

    def evaluate() -> ir.TensorProtocol:
        return ir.Tensor(write_map(dtype.numpy(), shape, make_chunks()), dtype=dtype, name=name)

    return ir.LazyTensor(evaluate, dtype=dtype, shape=ir.Shape(shape), cache=True, name=name)


def write_map(dtype: np.dtype[Any], shape: Sequence[int], chunks: Iterator[np.ndarray]) -> np.ndarray:
    """Write chunks to an unnamed temporary file and return its content as a map.

    A small array is in memory, and so is an array for which no temporary file can be reserved.
    """
    size = prod(shape) * dtype.itemsize
    if size <= CHUNK_BYTES:
        return _concatenate(dtype, shape, chunks)
    file = reserve_temporary_file(size)
    if file is None:
        return _concatenate(dtype, shape, chunks)
    with file:
        for chunk in chunks:
            file.write(np.ascontiguousarray(chunk, dtype=dtype).data)
        file.flush()
        array = np.memmap(file, dtype=dtype, mode="r+", shape=tuple(shape))
    register_map(array._mmap, _OWNER)  # type: ignore[attr-defined]
    return array


def _concatenate(dtype: np.dtype[Any], shape: Sequence[int], chunks: Iterator[np.ndarray]) -> np.ndarray:
    whole, start = np.empty(shape, dtype), 0
    for chunk in chunks:
        whole[start : start + len(chunk)] = chunk
        start += len(chunk)
    return whole


def add_mapped_initializer(
    graph: ir.Graph,
    name: str,
    dtype: ir.DataType,
    shape: Sequence[int],
    make_chunks: Callable[[], Iterator[np.ndarray]],
) -> ir.Value:
    """Register a mapped tensor as a constant of the graph and return its value; a name in use gets a number."""
    unique_name, number = name, 1
    while unique_name in graph.initializers:
        unique_name, number = f"{name}_{number}", number + 1
    tensor = make_mapped_tensor(unique_name, dtype, shape, make_chunks)
    value = ir.Value(name=unique_name, const_value=tensor, shape=ir.Shape(shape), type=ir.TensorType(dtype))
    graph.register_initializer(value)
    return value


def concatenate_tables(graph: ir.Graph, name: str, tables: Sequence[ir.Value], axis: int) -> ir.Value:
    """Register the concatenation of tables along axis 0, or of tables of as many rows along axis 1, as a mapped constant.

    Time and file: one copy of the tables, at the first use; memory: one chunk.
    """
    tensors = [table.const_value for table in tables if table.const_value is not None]
    shapes = [tuple(int(size) for size in tensor.shape) for tensor in tensors]  # type: ignore[arg-type]
    shape = list(shapes[0])
    shape[axis] = sum(sizes[axis] for sizes in shapes)

    def make_chunks() -> Iterator[np.ndarray]:
        if axis == 0:
            for tensor in tensors:
                yield from iterate_rows(tensor.numpy())
        else:
            arrays = [tensor.numpy() for tensor in tensors]
            for rows in split_rows(shape[0], shape[1] * arrays[0].itemsize):
                yield np.concatenate([array[rows] for array in arrays], axis=1)

    return add_mapped_initializer(graph, name, tensors[0].dtype, shape, make_chunks)


def split_rows(rows: int, row_bytes: int) -> Iterator[slice]:
    """Yield slices of consecutive rows, of about `CHUNK_BYTES` each.

    >>> list(split_rows(5, CHUNK_BYTES // 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    step = max(1, CHUNK_BYTES // max(row_bytes, 1))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))
        limit_mapped_pages()


def iterate_rows(array: np.ndarray) -> Iterator[np.ndarray]:
    """Yield views of consecutive rows of an array, of about `CHUNK_BYTES` each."""
    for rows in split_rows(len(array), array[:1].nbytes):
        yield array[rows]
