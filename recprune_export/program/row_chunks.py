"""Rows of a tensor in chunks, so that intermediate results never have the size of a whole table."""

from collections.abc import Iterator
from types import EllipsisType

from torch import Tensor

from recprune_export.mapped_pages import limit_mapped_pages

CHUNK_ELEMENTS = 1 << 18  # the operands of a chunk fit in the caches of a core


def row_chunks(tensor: Tensor, elements: int = CHUNK_ELEMENTS) -> Iterator[slice | EllipsisType]:
    """Yield slices of axis 0 of at most `elements` numbers each, but at least one row; a scalar is one chunk.

    >>> import torch
    >>> list(row_chunks(torch.zeros(5, 3), elements=6))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    if tensor.ndim == 0:
        yield ...
        return
    count = max(1, elements * len(tensor) // max(1, tensor.numel()))
    for number, start in enumerate(range(0, len(tensor), count)):
        yield slice(start, min(start + count, len(tensor)))
        if number % 64 == 63:
            limit_mapped_pages()
