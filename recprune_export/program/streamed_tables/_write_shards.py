"""`write_shards`: write the weights of a program as a folder of torch.distributed.checkpoint, for further training."""

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType

from recprune_export.errors import UsageError
from recprune_export.output_files import check_free_space

SHARD_BYTES = 1 << 28


def check_shards_folder(folder: Path) -> None:
    """Raise `UsageError` if `folder` exists and is not empty, since it would then mix shards of two models."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UsageError(f"{folder} already exists: remove it, or give another folder for --shards.")


def write_shards(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Write tensors to `folder` in shards of rows, each of at most 256 MiB and in a separate file.

    `torch.distributed.checkpoint.load` loads them in any number of processes, with any sharding. Memory: one shard.

    Raises `UsageError` if the disk is too full, and the error of `check_shards_folder`.
    """
    check_shards_folder(folder)
    check_free_space({folder: sum(tensor.nbytes for tensor in tensors.values())}, "the checkpoint in shards")
    writer = dcp.FileSystemWriter(folder, single_file_per_rank=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the warning that there is only one process, which is correct
        dcp.save(dict(tensors), storage_writer=writer, planner=_RowShards(flatten_state_dict=False), no_dist=True)


class _RowShards(DefaultSavePlanner):
    """A plan by which each tensor is saved as shards of rows."""

    def create_local_plan(self) -> SavePlan:
        self.plan = SavePlan([item for name, tensor in self.state_dict.items() for item in _list_shards(name, tensor)])
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Any:
        tensor, data = self.state_dict[write_item.index.fqn].detach(), write_item.tensor_data
        if data is None or not tensor.ndim:
            return tensor
        start = data.chunk.offsets[0]
        return tensor[start : start + data.chunk.sizes[0]]


def _list_shards(name: str, tensor: Tensor) -> Iterator[WriteItem]:
    rows = len(tensor) if tensor.ndim else 1
    step = max(1, rows * SHARD_BYTES // max(1, tensor.nbytes))
    for start in range(0, max(rows, 1), step):
        sizes, offsets = list(tensor.shape), [0] * tensor.ndim
        if tensor.ndim:
            sizes[0], offsets[0] = min(step, rows - start), start
        chunk = ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
        data = TensorWriteData(chunk, TensorProperties.create_from_tensor(tensor), tensor.size())
        yield WriteItem(MetadataIndex(name, chunk.offsets), WriteItemType.SHARD, tensor_data=data)
