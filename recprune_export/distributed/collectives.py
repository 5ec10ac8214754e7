"""Sums, gathers and exchanges between the processes of a run; in a run of one process each returns its argument.

`sent_bytes` counts the bytes that this process sends: 2·(N-1)/N of a sum by the ring algorithm, N-1 times its part of a gather, and for
an exchange the bytes sent to others. The algorithms send at least this much; protocols add headers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from recprune_export.distributed.lost_process import explain_lost_process
from recprune_export.distributed.ranks import is_divided, rank, world_size


@dataclass
class CollectiveTraffic:
    """The bytes that this process has sent, and the number of collectives."""

    sent_bytes: int = 0
    calls: int = 0

    def add(self, size: float) -> None:
        """Count one collective that sends `size` bytes."""
        self.sent_bytes += int(size)
        self.calls += 1


traffic = CollectiveTraffic()


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Add the tensors of all processes, in place, and return it; all have the same shape and dtype."""
    if is_divided():
        import torch.distributed as dist

        with explain_lost_process():
            buffer = _to_device(tensor.contiguous())
            dist.all_reduce(buffer)
            if buffer.data_ptr() != tensor.data_ptr():
                tensor.copy_(buffer)
        traffic.add(2 * tensor.nbytes * (world_size() - 1) / world_size())
    return tensor


def sum_number(number: float) -> float:
    """Return the sum over all processes of one number, in float64."""
    return float(sum_over_ranks(torch.tensor(float(number), dtype=torch.float64))) if is_divided() else number


def sum_integer(number: int) -> int:
    """Return the sum over all processes of one integer."""
    return int(sum_over_ranks(torch.tensor(int(number)))) if is_divided() else number


def gather_integers(number: int) -> list[int]:
    """Return an integer of each process, by rank."""
    if not is_divided():
        return [number]
    numbers = torch.zeros(world_size(), dtype=torch.int64)
    numbers[rank()] = number
    return [int(n) for n in sum_over_ranks(numbers)]


def broadcast_from_main(tensor: Tensor) -> Tensor:
    """Copy the values of the first process to all processes, in place, and return the tensor."""
    if is_divided():
        import torch.distributed as dist

        with explain_lost_process():
            buffer = _to_device(tensor.detach().contiguous())
            dist.broadcast(buffer, 0)
            if buffer.data_ptr() != tensor.data_ptr():
                with torch.no_grad():
                    tensor.copy_(buffer)
        traffic.add(tensor.nbytes * (rank() == 0))
    return tensor


def broadcast_module(module: torch.nn.Module, max_bytes: float = inf) -> None:
    """Copy the parameters and buffers of the module, of at most `max_bytes` each, from the first process to all."""
    if is_divided():
        for tensor in module.state_dict(keep_vars=True).values():
            if isinstance(tensor, Tensor) and 0 < tensor.nbytes <= max_bytes:
                broadcast_from_main(tensor)


def gather_bytes(rows: Tensor) -> list[Tensor]:
    """Return the rows of all processes by rank: uint8 [rows, k], each with a different number of rows and the same k."""
    if not is_divided():
        return [rows]
    import torch.distributed as dist

    counts = gather_integers(len(rows))
    most = max(counts)
    padded = rows.new_zeros(most, rows.shape[1])
    padded[: len(rows)] = rows
    with explain_lost_process():
        gathered = torch.empty(world_size() * most, rows.shape[1], dtype=torch.uint8, device=_device())
        dist.all_gather_single(gathered, _to_device(padded))
    traffic.add(padded.nbytes * (world_size() - 1))
    by_rank = gathered.to(rows.device).reshape(world_size(), most, rows.shape[1])
    return [piece[:count] for piece, count in zip(by_rank, counts, strict=True)]


def gather_rows(tensor: Tensor) -> list[Tensor]:
    """Return the tensors of all processes by rank, [rows, ...], each with a different number of rows."""
    if not is_divided():
        return [tensor]
    return [_from_bytes(packed, tensor) for packed in gather_bytes(_as_bytes(tensor))]


def exchange(rows: Tensor, sizes: Sequence[int], received: Sequence[int]) -> Tensor:
    """Send `sizes[r]` of the `rows`, [sum, ...], to each rank r in their order, and return those of all, `received[r]` from r."""
    import torch.distributed as dist

    result = torch.empty(sum(received), *rows.shape[1:], dtype=rows.dtype, device=_device())
    with explain_lost_process():
        dist.all_to_all_single(result, _to_device(rows.contiguous()), list(received), list(sizes))
    away = sum(sizes) - sizes[rank()]
    traffic.add(away * rows.nbytes / max(len(rows), 1))
    return result.to(rows.device)


def _as_bytes(tensor: Tensor) -> Tensor:
    return _flatten(tensor.detach(), 1).view(torch.uint8).reshape(len(tensor), row_bytes(tensor))


def _from_bytes(packed: Tensor, like: Tensor) -> Tensor:
    flat = _flatten(packed, like.element_size())
    return flat.view(like.dtype).reshape(len(packed), *like.shape[1:])


def _flatten(tensor: Tensor, alignment: int) -> Tensor:
    """Return the numbers of a tensor in a row, from a multiple of `alignment` numbers on in their storage."""
    flat = tensor.contiguous().reshape(-1)
    # One number counts as contiguous with any stride.
    is_aligned = flat.stride(0) == 1 and flat.storage_offset() % alignment == 0
    return flat if is_aligned else flat.new_empty(len(flat)).copy_(flat)


def pack_rows(tensors: Sequence[Tensor]) -> Tensor:
    """Return tensors with the same number of rows as the bytes of each row, uint8 [rows, k]."""
    return torch.cat([_as_bytes(t) for t in tensors], 1)


def unpack_rows(packed: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors that `pack_rows` packed, with the dtypes and shapes of rows of `like`."""
    pieces = packed.split([row_bytes(t) for t in like], dim=1)
    return [_from_bytes(piece, t) for piece, t in zip(pieces, like, strict=True)]


def row_bytes(tensor: Tensor) -> int:
    """Return the bytes of one row."""
    return tensor.element_size() * tensor.shape[1:].numel()


def _device() -> torch.device:
    """Return the device of tensors for the backend of the process group: gloo on the CPU, NCCL (untested) on the GPU of this process."""
    import torch.distributed as dist

    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _to_device(tensor: Tensor) -> Tensor:
    return tensor.to(_device())
