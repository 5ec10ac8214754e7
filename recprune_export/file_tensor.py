"""`empty_in_file`: a tensor in an unnamed temporary file that is mapped, of which the system takes pages when memory is short."""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

from recprune_export.output_files import map_temporary_file


def empty_in_file(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a tensor whose values are not set; in memory where no temporary file can be reserved."""
    pages = map_temporary_file(prod(shape) * dtype.itemsize)
    if pages is None:
        return torch.empty(tuple(shape), dtype=dtype)
    return torch.from_numpy(pages).view(dtype).reshape(tuple(shape))
