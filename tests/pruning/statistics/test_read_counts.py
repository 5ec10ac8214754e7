"""Reads are counted for each row of a request, whatever its length and however a matrix is written."""

import pytest
import torch
from torch import Tensor, nn

from recprune_export.program.capture import capture
from recprune_export.pruning.statistics.read_counts import count_reads


class Histories(nn.Module):
    """A table that is looked up in histories and for one item, scores of all items, and a layer at each position."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.layer = nn.Embedding(30, 4), nn.Linear(4, 4)

    def forward(self, history: Tensor, item: Tensor) -> Tensor:
        states = self.layer(self.items(history))
        return states.mean(1) @ self.items.weight.T + self.items(item).sum(-1, keepdim=True)


@pytest.mark.parametrize("rows", [2, 7])
def test_reads_of_histories(rows: int) -> None:
    request = {"history": torch.zeros(rows, 5, dtype=torch.int64), "item": torch.zeros(rows, dtype=torch.int64)}
    reads = count_reads(capture(Histories().eval(), tuple(request.values())), request)
    assert reads.lookups == {"items.weight": 6.0}
    assert reads.products == {"layer.weight": 5.0, "items.weight": 1.0}
