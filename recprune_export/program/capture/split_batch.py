"""Replacement of splits of the batch by slices during a capture.

Attention heads are often folded into the batch and separated again: `cat(x.split(16, 2), 0)`, later
`cat(y.split(B, 0), 2)`. The number of chunks is ⌈3·B / B⌉, and torch.export cannot prove that it is three for every B.
Slices need no such proof. Neither does a single chunk, as from `x.chunk(1)` or `x.split(1024)` in models that process a batch in chunks,
or with ghost batch-norm, when the batch is small.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class SplitBatchMode(TorchFunctionMode):
    """A mode that replaces a split by a size that divides the axis for every batch by slices."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in (torch.split, Tensor.split):
            slices = _slices(*args, **(kwargs or {}))
            if slices is not None:
                return slices
        if func in (torch.chunk, Tensor.chunk):
            chunks = _chunks(*args, **(kwargs or {}))
            if chunks is not None:
                return chunks
        return func(*args, **(kwargs or {}))


def _chunks(*args: Any, chunks: int | None = None, dim: int = 0, **_: Any) -> tuple[Tensor, ...] | None:
    """Return the chunks of a tensor if their number divides its symbolic size along the axis for every batch; otherwise None."""
    tensor, *rest = args
    count = rest[0] if rest else chunks
    axis = rest[1] if len(rest) > 1 else dim
    if (
        not tensor.ndim
        or not isinstance(tensor.shape[axis], torch.SymInt)
        or not isinstance(count, (int, torch.SymInt))
    ):
        return None
    if bool(count == 1):  # of a number that depends on the batch, torch.export notes it as a limit of the batch
        return (tensor,)
    if not isinstance(count, int):
        return None
    factor, _rest = tensor.shape[axis].node.expr.as_coeff_Mul()
    if not factor.is_Integer or int(factor) % count:
        return None
    size = tensor.shape[axis] // count
    return tuple(tensor.narrow(axis, index * size, size) for index in range(count))


def _slices(tensor: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...] | None:
    size = args[0] if args else kwargs.get("split_size_or_sections", kwargs.get("split_size"))
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    if not isinstance(size, (int, torch.SymInt)) or not isinstance(tensor.shape[dim], torch.SymInt):
        return None
    if isinstance(size, int):
        return (tensor,) if bool(tensor.shape[dim] <= size) else None
    count = tensor.shape[dim].node.expr / size.node.expr
    if not count.is_Integer:
        return None
    return tuple(tensor.narrow(dim, index * size, size) for index in range(int(count)))
