"""Check the weights of a loaded model: every number is finite, and every declared number is stored."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recprune_export.errors import ModelFileError
from recprune_export.program.row_chunks import row_chunks
from recprune_export.program.streamed_tables.streamed_table import StreamedTable
from recprune_export.training.checkpoint import check_storage_sizes

_CHUNK_SIZE = 1 << 18  # elements of a weight that are checked at a time
_STREAMED_CHUNK_SIZE = 1 << 22  # of one that is read from its file


def check_finite(module: nn.Module, source: Path | str) -> None:
    """Raise `ModelFileError` with the name and position of the first NaN or infinity in the tensors of `module`.

    Buffers may hold minus infinity, as attention masks do.
    """
    state = module.state_dict(keep_vars=True)
    check_storage_sizes({name: t for name, t in state.items() if not isinstance(t, StreamedTable)}, source)
    weights = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, tensor in state.items():
        if not (isinstance(tensor, Tensor) and tensor.is_floating_point()):
            continue
        for start, chunk in _iterate_chunks(tensor.detach()):
            bad = ~torch.isfinite(chunk)
            if name not in weights:
                bad &= ~torch.isneginf(chunk)
            if bad.any():
                index = np.unravel_index(start + int(bad.nonzero()[0]), tuple(tensor.shape))
                position = ", ".join(str(int(i)) for i in index)
                raise ModelFileError(
                    f"'{name}' in {source} contains {float(chunk[int(bad.nonzero()[0])])} at [{position}]: "
                    "repair it or train the model again."
                )


def _iterate_chunks(tensor: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the numbers of a tensor in chunks, each with the position of its first number."""
    if isinstance(tensor, StreamedTable):
        for rows in row_chunks(tensor, _STREAMED_CHUNK_SIZE):
            assert isinstance(rows, slice)
            yield rows.start * tensor.shape[1], tensor.rows.read(rows.start, rows.stop).reshape(-1)
        return
    flat = tensor.reshape(-1)
    for start in range(0, len(flat), _CHUNK_SIZE):
        yield start, flat[start : start + _CHUNK_SIZE]
