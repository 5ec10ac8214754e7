"""Attention of a row that may look at nothing is zero in ONNX, as in PyTorch; others pay nothing."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recprune_export.onnx import export_onnx, make_session, read_model, run
from recprune_export.onnx.empty_rows import guard_empty_rows
from recprune_export.program.capture import capture
from tests.properties import no_zeros


class Encoder(nn.Module):
    """Two heads over a history; `low` is what forbids padding, and a constant mask what comes later."""

    def __init__(self, low: float) -> None:
        super().__init__()
        self.table, self.attention, self.last = nn.Embedding(20, 8), nn.MultiheadAttention(8, 2), nn.Linear(8, 1)
        self.low = low
        self.register_buffer("later", torch.full((5, 5), -torch.inf).triu(1))

    def forward(self, history: Tensor) -> Tensor:
        x = self.table(history).transpose(0, 1)
        padding = torch.zeros(history.shape).masked_fill(history == 0, self.low)
        x, _ = self.attention(x, x, x, key_padding_mask=padding, need_weights=False)
        heads = x.transpose(0, 1).unsqueeze(1)
        seen = F.scaled_dot_product_attention(heads, heads, heads, attn_mask=self.later)
        return self.last(seen[:, 0, -1])


HISTORIES = torch.tensor([[0, 0, 0, 0, 0], [3, 4, 0, 0, 0], [1, 2, 3, 4, 5]])


@pytest.mark.parametrize("low", [-torch.inf, -1e4])
def test_an_empty_history_is_answered_as_in_pytorch(tmp_path: Path, low: float) -> None:
    program = capture(no_zeros(Encoder(low)), (HISTORIES,))
    file = export_onnx(program, tmp_path / "model.onnx")
    found = run(make_session(file.path, 1), {"history": HISTORIES.numpy()})["output"]
    expected = program({"history": HISTORIES})["output"].detach().numpy()
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("low", "guarded"), [(-torch.inf, 1), (-1e4, 0)])
def test_only_masks_that_may_forbid_a_whole_row_are_guarded(low: float, guarded: int) -> None:
    program = capture(no_zeros(Encoder(low)), (HISTORIES,))
    fills = torch.ops.aten.masked_fill.Scalar
    before = len(program.module.graph.find_nodes(op="call_function", target=fills))
    graph = guard_empty_rows(program).module.graph
    assert len(graph.find_nodes(op="call_function", target=fills)) - before == guarded
    assert len(program.module.graph.find_nodes(op="call_function", target=fills)) == before  # left alone


class Indexed(nn.Module):
    """A table of which rows are taken by index, which also scores all items, as `weight.T`."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(30, 8))

    def forward(self, history: Tensor) -> Tensor:
        return self.table[history].mean(1) @ self.table.T


def test_a_table_that_is_indexed_and_multiplied_is_stored_once(tmp_path: Path) -> None:
    program = capture(Indexed(), (HISTORIES,))
    file = export_onnx(program, tmp_path / "model.onnx")
    sizes = [int(np.prod(tensor.dims)) for tensor in read_model(file.path).graph.initializer]
    assert sizes.count(30 * 8) == 1
