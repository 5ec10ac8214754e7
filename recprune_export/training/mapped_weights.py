"""Weights that stay in their file: a memory map, read by pages, that needs no additional memory. Writes to such a tensor copy the written
pages and affect only this process; the file is never changed.

It must not be truncated while the tensors are used; replacing it by a new file is safe.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import init
from torch.overrides import TorchFunctionMode


def load_mapped(path: Path) -> Any:
    """Return the plain content of a file of `torch.save`; nothing in it is executed. Its tensors are maps of the file.

    A file from before torch 1.6 cannot be mapped, and is read into memory.

    Raises unrelated classes of errors of torch, zipfile and pickle for a damaged file.
    """
    return torch.load(path, weights_only=True, map_location="cpu", mmap=zipfile.is_zipfile(path))


def share_tensors(module: nn.Module, state: Mapping[str, Tensor]) -> frozenset[str]:
    """Make the parameters of `module` use the tensors of `state`, where name, shape and dtype fit; return their names."""
    shared: set[str] = set()
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if _fits(parameter, state.get(name)):
            parameter.data = state[name]
            shared.add(name)
    return frozenset(shared)


def share_equal_tensors(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Make the parameters of `module` use the tensors of `state` that have the same name and content."""
    share_tensors(
        module,
        {
            name: state[name]
            for name, parameter in module.named_parameters(remove_duplicate=False)
            if _fits(parameter, state.get(name)) and torch.equal(parameter, state[name])
        },
    )


def _fits(parameter: nn.Parameter, tensor: Tensor | None) -> bool:
    return (
        tensor is not None
        and tensor.layout == torch.strided
        and tensor.is_contiguous()
        and (tensor.shape, tensor.dtype, tensor.device) == (parameter.shape, parameter.dtype, parameter.device)
    )


class SkipRandomInitialization(TorchFunctionMode):
    """Inside the block a new parameter is not filled with random numbers: the memory of a table is not accessed."""

    _SKIPPED = frozenset({init.normal_, init.uniform_, init.kaiming_uniform_, Tensor.normal_, Tensor.uniform_})

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        filled = args[0] if args else (kwargs or {}).get("tensor")
        if func in self._SKIPPED and isinstance(filled, nn.Parameter):
            return filled
        return func(*args, **(kwargs or {}))
