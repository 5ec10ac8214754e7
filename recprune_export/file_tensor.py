"""`empty_in_file`: a tensor in an unnamed, memory-mapped temporary file, whose pages the system can reclaim when memory is short."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from recprune_export.output_files import map_temporary_file


def empty_in_file(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return an uninitialized tensor; in memory if no temporary file can be reserved."""
    pages = map_temporary_file(prod(shape) * dtype.itemsize)
    if pages is None:
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.from_numpy(pages).view(dtype).reshape(tuple(shape))
