"""`WeightSnapshot`: a copy of the tensors of a module, from which they can be restored; large ones are in a file."""

import copy
from typing import Any, Self

import torch
from torch import Tensor, nn

from recprune_export.file_tensor import empty_in_file

MAPPED_BYTES = 1 << 26  # the size of a tensor from which on its copy is a memory map


class WeightSnapshot:
    """The parameters and buffers of a module at one time.

    Memory: tensors of less than `MAPPED_BYTES`; larger ones are written to an unnamed temporary file, which the system reads back page by
    page and deletes with the snapshot. If the disk is full, they stay in memory.
    """

    def __init__(self, module: nn.Module) -> None:
        self._state = {name: _empty_copy(value) for name, value in module.state_dict().items()}

    @classmethod
    def take(cls, module: nn.Module) -> Self:
        """Return a copy of the present tensors."""
        snapshot = cls(module)
        snapshot.update(module)
        return snapshot

    def update(self, module: nn.Module) -> None:
        """Copy the present tensors of the same module, replacing the previous ones."""
        for name, value in module.state_dict().items():
            if isinstance(value, Tensor):
                self._state[name].copy_(value)
            else:  # extra state of a module
                self._state[name] = copy.deepcopy(value)

    def restore(self, module: nn.Module) -> None:
        """Set the tensors of the module to the copies, in place."""
        module.load_state_dict(self._state)


def _empty_copy(tensor: Any) -> Any:
    if not isinstance(tensor, Tensor):
        return None
    if tensor.nbytes < MAPPED_BYTES:
        return torch.empty_like(tensor, requires_grad=False)
    return empty_in_file(tensor.shape, tensor.dtype)
