"""A recommender whose tables are long enough to stay in their files, and its checkpoint as two processes write it.

python -m tests.program.loading.sharded_models RANK FOLDER
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn

FACTORY = f"{__name__}:make"
ROWS, DIM = (30_001, 20_000, 25_000, 18_000, 300), 16
LONG = [f"tables.{number}.weight" for number in range(4)]


class Recommender(nn.Module):
    def __init__(self, output_of_items: bool = False) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(rows, DIM) for rows in ROWS)
        self.top = nn.Sequential(nn.Linear(len(ROWS) * DIM + 2, 64), nn.ReLU(), nn.Linear(64, 1))
        self.register_buffer("scale", torch.full((2,), 0.5), persistent=False)
        self.output_of_items = output_of_items

    def forward(self, ids: Tensor, numbers: Tensor) -> Tensor:
        found = [table(ids[:, field]) for field, table in enumerate(self.tables)]
        if self.output_of_items:
            return found[0] @ self.tables[0].weight.T
        return self.top(torch.cat([*found, numbers * self.scale], 1)).squeeze(1)


def make(output_of_items: bool = False) -> Recommender:
    return Recommender(output_of_items)


def train() -> Recommender:
    """Return a model with tables of low rank, as those of trained models are."""
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for table in model.tables:
            table.weight.copy_(torch.randn(len(table.weight), 4) @ torch.randn(4, DIM) / 2)
            table.weight += 0.05 * torch.randn_like(table.weight)
    return model


def write_request(path: Path) -> Path:
    np.savez(path, ids=np.arange(6)[:, None].repeat(len(ROWS), 1), numbers=np.ones((6, 2), np.float32))
    return path


def write_shards(folder: Path) -> None:
    """Write the folders `dtensor` and `sharded_tensor` by two processes, and `whole.pt`."""
    torch.save(train().state_dict(), folder / "whole.pt")
    command = [sys.executable, "-m", __name__]
    processes = [subprocess.Popen([*command, str(rank), str(folder)], stderr=subprocess.PIPE) for rank in (0, 1)]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors.decode()[-2000:]
    finally:
        for process in processes:
            process.kill()


def shard_tensor(tensor: Tensor, rank: int, parts: list[tuple[slice, slice, int]]) -> object:
    """Return a `ShardedTensor` of boxes of rows and columns, each with the rank that holds it."""
    from torch.distributed._shard.sharded_tensor import Shard, init_from_local_shards

    local = [
        Shard.from_tensor_and_offsets(tensor[rows, columns].contiguous(), [rows.start or 0, columns.start or 0], rank)
        for rows, columns, owner in parts
        if owner == rank
    ]
    return init_from_local_shards(local, *tensor.shape)


def main(rank: int, folder: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    dist.init_process_group("gloo", init_method=f"file://{folder}/sync", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    state = train().state_dict()
    placements = {LONG[0]: Shard(0), LONG[1]: Shard(1), LONG[2]: Replicate()}
    distributed = {name: distribute_tensor(state[name], mesh, [placement]) for name, placement in placements.items()}
    dcp.save({"model": {**state, **distributed}}, checkpoint_id=folder / "dtensor")
    whole = slice(None)
    boxes = {
        LONG[0]: [(slice(0, 20_000), whole, 1), (slice(20_000, ROWS[0]), whole, 0)],
        LONG[1]: [(whole, slice(0, 4), 0), (whole, slice(4, DIM), 1)],
        LONG[2]: [(whole, whole, 1)],
        LONG[3]: [
            (rows, columns, (rows.start + columns.start) % 2)
            for rows in (slice(0, 9_001), slice(9_001, ROWS[3]))
            for columns in (slice(0, 8), slice(8, DIM))
        ],
    }
    sharded = {name: shard_tensor(state[name], rank, parts) for name, parts in boxes.items()}
    dcp.save({**state, **sharded}, checkpoint_id=folder / "sharded_tensor")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
