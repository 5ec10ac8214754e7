"""What each process does in the tests of collectives, layers and gradients."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recprune_export.bundle.write import stage_bundle
from recprune_export.data import ArraySpec, load_arrays
from recprune_export.data.records.streamed_rows import StreamedRows
from recprune_export.distributed import call_on_main, gather_shares, is_divided, rank, share_prediction, take_share
from recprune_export.distributed.gradients import sum_gradient_list, sum_gradients
from recprune_export.distributed.layers_over_ranks import layers_over_ranks
from recprune_export.distributed.main_process import enter_on_main, leave_to_main
from recprune_export.distributed.row_shards import RowShard, gather_table, mark_shard
from recprune_export.distributed.shares import add_losses, gather_answers
from recprune_export.errors import UsageError
from recprune_export.settings import DataSettings, RowSettings


def gather_rows(rows: int) -> tuple[list[int], list[str], Tensor]:
    """Gather numbers and marks of `rows` rows dealt in turn; return them and the gradient of the numbers."""
    numbers = take_share(torch.arange(float(rows))).requires_grad_()
    marks = take_share(torch.arange(rows) % 2 == 0)
    whole, all_marks = gather_shares([numbers, marks])
    (whole * torch.arange(float(rows))).sum().backward()
    return whole.tolist(), [str(bool(mark)) for mark in all_marks], numbers.grad  # type: ignore[return-value]


def gather_by_order() -> list[int]:
    """The first process holds the places 2 and 3, the second one 0 and 1 (and 4)."""
    order = torch.tensor([[2, 3], [0, 1, 4]][rank()])
    ((answers),) = gather_answers([{"place": order * 10}], order)
    return answers["place"].tolist()


def predict(rows: int) -> list[float]:
    asked: list[int] = []

    def double(request: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        asked.append(len(request["x"]))
        return {"y": request["x"] * 2.0}

    answers = share_prediction(double)({"x": np.arange(rows)})["y"].tolist()
    return [*asked, *answers]


def sums() -> tuple[Tensor, list[Tensor | None], float, float]:
    dense, sparse, unused = (nn.Parameter(torch.zeros(3, 2)) for _ in range(3))
    dense.grad = torch.full((3, 2), rank() + 1.0)
    sparse.grad = torch.sparse_coo_tensor(torch.tensor([[0, rank() + 1, 0]]), torch.ones(3, 2), (3, 2))
    sum_gradients([dense, sparse, unused])
    listed = sum_gradient_list([torch.ones(2) * rank(), None])
    part = torch.tensor(rank() + 1.0, requires_grad=True)
    total = add_losses(part * 3)
    total.backward()
    assert part.grad is not None
    assert sparse.grad is not None
    return torch.cat([dense.grad, sparse.grad.to_dense()], 1), listed, total.item(), part.grad.item()


def train_layers(rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the outputs of this process, the summed gradient of the first layer, and the running variance."""
    module, values = make_layers(rows)
    with layers_over_ranks(module):
        torch.manual_seed(5)
        answers = module(take_share(values))
        answers.pow(3).sum().backward()
    sum_gradients(module.parameters())
    first, norm = module[0], module[1]
    assert first.weight.grad is not None
    return answers.detach(), first.weight.grad, norm.running_var


def make_layers(rows: int) -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, 2)).double()
    return module, torch.randn(rows, 4, dtype=torch.float64)


def gather_whole_table(rows: int, everywhere: bool) -> Tensor | None:
    table = torch.arange(rows * 2.0).reshape(rows, 2)
    shard = RowShard.of(rows)
    own = shard.take(table)
    mark_shard(own, shard)
    return gather_table(own, everywhere=everywhere)


def work_on_main() -> tuple[list[Any], bool]:
    """Return results of the first process, and whether it could work alone meanwhile."""
    alone = call_on_main(is_divided)
    try:
        call_on_main(partial(_fail, rank))
    except UsageError as error:
        return [alone, str(error), call_on_main(lambda: "again")], is_divided()
    raise AssertionError("no error")


def _fail(number: Callable[[], int]) -> None:
    raise UsageError(f"failed in {number()}")


def set_local_processes(count: int) -> None:
    """Say, as torchrun does, how many processes this machine has."""
    os.environ["LOCAL_WORLD_SIZE"] = str(count)


_held: list[StreamedRows] = []


def load_streamed_rows(folder: Path) -> tuple[int, list[int], int]:
    """Return the inode of the rows, the users of an epoch, and the readers."""
    spec = ArraySpec("user", "int64", (), ((0, 999),))
    reading = DataSettings(stream=True, readers=2)
    rows = load_arrays(folder, [spec], ["y"], 0, RowSettings(reading=reading)).train
    assert isinstance(rows, StreamedRows)
    assert rows.file is not None
    _held.append(rows)  # so that no other file gets its inode
    users = [user for batch in rows.batches(50) for user in batch.inputs["user"].tolist()]
    return os.stat(rows.file.path).st_ino, users, rows.readers


def leave() -> str:
    try:
        leave_to_main()
    except SystemExit as end:
        return f"left with {end.code}"
    return f"goes on, divided: {is_divided()}"


def lock(target: Path) -> str:
    try:
        with enter_on_main(partial(stage_bundle, target), target) as held:
            return str(held)
    except UsageError as error:
        return str(error)
