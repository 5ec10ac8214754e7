"""Parts of a folded batch, while a model is captured.

Heads are often folded into the batch, and taken apart again: `cat(x.split(16, 2), 0)`, later `cat(y.split(B, 0), 2)`. How many
parts that makes is ⌈3·B / B⌉, of which torch.export cannot prove that it is three for every B. Cut one by one, there is
nothing to prove. Nor is there where a batch is taken in one part, `x.chunk(1)` or `x.split(1024)`, as models do that
work in pieces, or with ghost batch-norm, when it is small.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class SplitBatchMode(TorchFunctionMode):
    """Inside the block a split by a size that divides the axis, whatever the batch, is as many slices."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in (torch.split, Tensor.split):
            parts = _parts(*args, **(kwargs or {}))
            if parts is not None:
                return parts
        if func in (torch.chunk, Tensor.chunk) and _is_whole(*args, **(kwargs or {})):
            return (args[0],)
        return func(*args, **(kwargs or {}))


def _is_whole(*args: Any, chunks: int | None = None, dim: int = 0, **_: Any) -> bool:
    """Whether a tensor whose size varies along the axis is asked for in one part."""
    tensor, *rest = args
    count = rest[0] if rest else chunks
    axis = rest[1] if len(rest) > 1 else dim
    return bool(tensor.ndim) and isinstance(tensor.shape[axis], torch.SymInt) and isinstance(count, int) and count == 1


def _parts(tensor: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...] | None:
    size = args[0] if args else kwargs.get("split_size_or_sections", kwargs.get("split_size"))
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    if not isinstance(size, (int, torch.SymInt)) or not isinstance(tensor.shape[dim], torch.SymInt):
        return None
    if isinstance(size, int):
        return (tensor,) if bool(tensor.shape[dim] <= size) else None
    count = tensor.shape[dim].node.expr / size.node.expr
    if not count.is_Integer:
        return None
    return tuple(tensor.narrow(dim, part * size, size) for part in range(int(count)))
