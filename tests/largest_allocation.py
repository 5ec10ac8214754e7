"""The largest tensor that a block of code allocates: a copy of a table would be as large as the table."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestAllocation(TorchDispatchMode):
    """Records in `bytes` the size of the largest storage that an operator made inside the block, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        before = {tensor.untyped_storage().data_ptr() for tensor in _dense_tensors((args, kwargs))}
        for tensor in _dense_tensors(result):
            if tensor.untyped_storage().data_ptr() not in before:
                self.bytes = max(self.bytes, tensor.untyped_storage().nbytes())
        return result


def _dense_tensors(values: Any) -> list[torch.Tensor]:
    leaves = (leaf for leaf in tree_leaves(values) if type(leaf) in (torch.Tensor, torch.nn.Parameter))
    return [leaf for leaf in leaves if leaf.layout == torch.strided and leaf.device.type == "cpu"]
