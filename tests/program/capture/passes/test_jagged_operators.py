"""fbgemm's operators on jagged tensors, where fbgemm-gpu-cpu is installed (requirements-torchrec.txt)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recprune_export.errors import CaptureError
from recprune_export.onnx import export_onnx, make_session, run
from recprune_export.program.capture import capture
from tests.program.capture.jagged_models import IDS, LENGTHS, Checked, draw_ids
from tests.properties import check_any_plan, no_zeros, prunable

fbgemm_gpu = pytest.importorskip("fbgemm_gpu", exc_type=Exception)
STEPS, WIDTH = 6, 4


class Packed(nn.Module):
    """Padded histories B×L, packed for a layer on each item, and padded again for a product of all pairs."""

    def __init__(self, mixed: bool = False) -> None:
        super().__init__()
        self.table, self.layer, self.norm = nn.Embedding(IDS, WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.LayerNorm(WIDTH)
        self.last, self.mixed = nn.Linear(WIDTH, 1), mixed

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(lengths)
        items = torch.ops.fbgemm.dense_to_jagged(self.norm(self.table(ids)), [offsets])[0]
        keys, values = torch.nn.functional.silu(self.layer(items)).split(WIDTH, 1)
        if self.mixed:
            values = values.cumsum(0)
        padded = [torch.ops.fbgemm.jagged_to_padded_dense(x, [offsets], [STEPS], 0.0) for x in (keys, values)]
        answers = torch.bmm(torch.bmm(padded[0], padded[0].transpose(1, 2)), padded[1])
        packed = torch.ops.fbgemm.dense_to_jagged(answers, [offsets])[0] + items
        dense = torch.ops.fbgemm.jagged_to_padded_dense(packed, [offsets], [STEPS], 0.0)
        return self.last(dense.sum(1))  # type: ignore[no-any-return]


class Bags(nn.Module):
    """Ids of different numbers, padded to a matrix of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(IDS, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, ids: Checked) -> Tensor:
        offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(ids.lengths)
        padded = torch.ops.fbgemm.jagged_to_padded_dense(self.table(ids.values), [offsets], [STEPS], 0.5)
        return self.last(padded.amax(1))  # type: ignore[no-any-return]


class OldBags(Bags):
    """The same with the operators for one axis: of ids, and of looked-up rows."""

    def forward(self, ids: Checked) -> Tensor:
        offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(ids.lengths)
        rows = torch.ops.fbgemm.jagged_2d_to_dense(self.table(ids.values), offsets, STEPS)
        padded_ids = torch.ops.fbgemm.jagged_1d_to_dense(ids.values, offsets, STEPS, 1)
        return self.last((rows + self.table(padded_ids)).amax(1))  # type: ignore[no-any-return]


HISTORIES = (draw_ids(5, STEPS), torch.tensor([3, 6, 1, 4, 2]))


def test_packed_histories_stay_padded(tmp_path: Path) -> None:
    module = no_zeros(Packed())
    program, analysis = check_any_plan(module, *HISTORIES)
    assert ("table.weight", 1) in prunable(analysis)
    assert not [node for node in program.module.graph.nodes if "fbgemm" in str(node.target)]
    session = make_session(export_onnx(program, tmp_path / "model.onnx").path, 1)
    for lengths in (HISTORIES[1], torch.tensor([6, 6, 6, 6, 6]), torch.tensor([1, 1, 1, 1, 1])):
        expected = module(HISTORIES[0], lengths).detach().numpy()
        found = run(session, {"ids": HISTORIES[0].numpy(), "lengths": lengths.numpy()})["output"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_items_that_are_mixed_are_refused() -> None:
    with pytest.raises(CaptureError, match=r'packed at .*test_jagged_operators\.py", line \d+, and mixed before'):
        capture(no_zeros(Packed(mixed=True)), HISTORIES)


@pytest.mark.parametrize("kind", [Bags, OldBags])
def test_bags_are_padded(kind: type[Bags], tmp_path: Path) -> None:
    module = no_zeros(kind())
    program, _ = check_any_plan(module, Checked(draw_ids(20), LENGTHS))
    session = make_session(export_onnx(program, tmp_path / "model.onnx").path, 1)
    for lengths in (LENGTHS, torch.tensor([0, 0, 8, 12]), torch.tensor([20])):
        expected = module(Checked(draw_ids(20), lengths)).detach().numpy()
        found = run(session, {"ids_values": draw_ids(20).numpy(), "ids_lengths": lengths.numpy()})["output"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("sums", "expected"),
    [
        ("asynchronous_complete_cumsum", lambda x: torch.cat([x.new_zeros(*x.shape[:-1], 1), x.cumsum(-1)], -1)),
        ("asynchronous_inclusive_cumsum", lambda x: x.cumsum(-1)),
        ("asynchronous_exclusive_cumsum", lambda x: x.cumsum(-1) - x),
    ],
)
def test_sums(sums: str, expected: Callable[[Tensor], Tensor]) -> None:
    class Sums(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return getattr(torch.ops.fbgemm, sums)(x).sum() + x.float() * 0.0  # type: ignore[no-any-return]

    x = torch.tensor([3, 0, 5, 2, 7])
    program = capture(Sums(), (x,))
    torch.testing.assert_close(program({"x": x})["output"], torch.full((5,), float(expected(x).sum())))


class PackedAgain(nn.Module):
    """Rows that the request holds packed; attention on padded steps; packed again, beside what they were before."""

    def __init__(self) -> None:
        super().__init__()
        self.items, self.last = nn.Embedding(40, 8), nn.Linear(8, 8)

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        offsets = torch.ops.fbgemm.asynchronous_complete_cumsum(lengths)
        x = self.items(values)
        padded = torch.ops.fbgemm.jagged_to_padded_dense(x, [offsets], [4], 0.0)
        mixed = torch.relu(padded @ padded.transpose(1, 2)) @ padded
        packed = torch.ops.fbgemm.dense_to_jagged(mixed, [offsets])[0]
        last = torch.ops.fbgemm.jagged_to_padded_dense(self.last(packed) + x, [offsets], [4], 0.0)
        return last.sum(1)  # type: ignore[no-any-return]


def test_rows_that_are_packed_again(tmp_path: Path) -> None:
    lengths = torch.tensor([2, 1, 3, 1, 2, 6])
    example = (torch.randint(40, (15,)), lengths)
    module = PackedAgain().eval()
    program, _ = check_any_plan(module, *example)
    session = make_session(export_onnx(program, tmp_path / "model.onnx").path, 1)
    found = run(session, {"values": example[0].numpy(), "lengths": lengths.numpy()})
    np.testing.assert_allclose(found["output"], module(*example).detach().numpy(), rtol=1e-4, atol=1e-5)
