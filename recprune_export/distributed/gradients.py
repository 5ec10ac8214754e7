"""Gradients summed over all processes, so that each takes the step of a single process on the whole batch."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from recprune_export.distributed.collectives import gather_bytes, pack_rows, sum_over_ranks, unpack_rows
from recprune_export.distributed.ranks import is_divided
from recprune_export.distributed.row_shards import find_shard


def sum_gradients(parameters: Iterable[Tensor]) -> None:
    """Set the gradient of each parameter to the sum of those of all processes, in place.

    Those of row-sharded tables are already complete. Dense ones are summed in one collective for each dtype, the looked-up rows of sparse
    ones are gathered.
    """
    if not is_divided():
        return
    held = [p for p in parameters if p.grad is not None and find_shard(p) is None]
    for parameter, gradient in zip(held, _sum_in_place([p.grad for p in held]), strict=True):
        parameter.grad = gradient


def sum_gradient_list(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Return the sums over all processes of gradients, dense or sparse in their rows; None for those that are None everywhere."""
    if not is_divided():
        return list(gradients)
    return _sum_in_place([g if g is None or g.is_sparse else g.clone() for g in gradients])


def _sum_in_place(gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Add the dense gradients of all processes in place, and return them with the gathered sparse ones."""
    summed = [g if g is None or not g.is_sparse else gather_sparse(g) for g in gradients]
    sum_tensors([g for g in summed if g is not None and not g.is_sparse])
    return summed


def sum_tensors(tensors: Iterable[Tensor]) -> None:
    """Add the tensors of all processes, in place, by one collective for each dtype."""
    if not is_divided():
        return
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for group in by_dtype.values():
        bucket = sum_over_ranks(torch.cat([tensor.reshape(-1) for tensor in group]))
        for tensor, piece in zip(group, bucket.split([t.numel() for t in group]), strict=True):
            tensor.copy_(piece.reshape(tensor.shape))


def gather_sparse(gradient: Tensor) -> Tensor:
    """Return a gradient that is sparse in its rows with the rows of all processes, each row once."""
    gradient = gradient.coalesce()
    own = [gradient.indices()[0], gradient.values()]
    by_rank = [unpack_rows(packed, own) for packed in gather_bytes(pack_rows(own))]
    indices, values = (torch.cat(column) for column in zip(*by_rank, strict=True))
    return torch.sparse_coo_tensor(indices[None], values, gradient.shape, check_invariants=False).coalesce()
