"""The check of the weights of a model that was read: every number is finite, and none is declared that is not stored."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from recprune_export.errors import ModelFileError
from recprune_export.training.checkpoint import check_storage_sizes

_CHUNK_SIZE = 1 << 18  # elements of a weight that are checked at a time


def check_finite(module: nn.Module, source: Path | str) -> None:
    """Raise `ModelFileError` with the name and position of the first NaN or infinity in the tensors of `module`.

    Buffers may hold minus infinity, as attention masks do.
    """
    state = module.state_dict(keep_vars=True)
    check_storage_sizes(state, source)
    weights = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    for name, tensor in state.items():
        if not (isinstance(tensor, Tensor) and tensor.is_floating_point()):
            continue
        flat = tensor.detach().reshape(-1)
        for start in range(0, len(flat), _CHUNK_SIZE):
            chunk = flat[start : start + _CHUNK_SIZE]
            bad = ~torch.isfinite(chunk)
            if name not in weights:
                bad &= ~torch.isneginf(chunk)
            if bad.any():
                index = np.unravel_index(start + int(bad.nonzero()[0]), tuple(tensor.shape))
                position = ", ".join(str(int(i)) for i in index)
                raise ModelFileError(
                    f"'{name}' in {source} holds {float(flat[start + int(bad.nonzero()[0])])} at [{position}]: "
                    "repair it or train the model again."
                )
