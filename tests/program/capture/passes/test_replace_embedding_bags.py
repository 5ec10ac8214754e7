"""EmbeddingBag becomes a lookup and a reduction, and says the same."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from recprune_export.finetuning import run_program
from recprune_export.onnx import export_onnx, make_session, run
from recprune_export.program.capture import capture
from recprune_export.program.capture.passes.replace_embedding_bags import BAGS
from tests.program.read_file_arrays import read_file_arrays
from tests.properties import check_any_plan, no_zeros, prunable


class Bags(nn.Module):
    """Ids and weights B×L to B×2."""

    def __init__(self, mode: str, padding: int | None, weighted: bool) -> None:
        super().__init__()
        self.bag, self.last = nn.EmbeddingBag(20, 6, mode=mode, padding_idx=padding), nn.Linear(6, 2)
        self.weighted = weighted

    def forward(self, ids: Tensor, weights: Tensor) -> Tensor:
        pooled = self.bag(ids, per_sample_weights=weights) if self.weighted else self.bag(ids)
        return self.last(pooled)  # type: ignore[no-any-return]


class Ragged(nn.Module):
    """Ids N in bags that begin at offsets B, to B×2."""

    def __init__(self, mode: str, padding: int | None = None) -> None:
        super().__init__()
        self.bag, self.last = nn.EmbeddingBag(20, 6, mode=mode, padding_idx=padding), nn.Linear(6, 2)

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        return self.last(self.bag(ids, offsets))  # type: ignore[no-any-return]


MODES = [(mode, padding, False) for mode in ("sum", "mean", "max") for padding in (None, 3)] + [
    ("sum", None, True),
    ("sum", 3, True),
]


@pytest.mark.parametrize(("mode", "padding", "weighted"), MODES)
def test_a_matrix_of_ids_is_looked_up_and_reduced(
    mode: str, padding: int | None, weighted: bool, tmp_path: Path
) -> None:
    module = no_zeros(Bags(mode, padding, weighted))
    ids = torch.tensor([[1, 3, 4], [3, 3, 3], [7, 19, 0], [3, 2, 3]])
    request = {"ids": ids, "weights": torch.randn(4, 3)}
    program, analysis = check_any_plan(module, *request.values())
    assert not BAGS & {node.target for node in program.module.graph.nodes}
    assert ("bag.weight", 1) in prunable(analysis)
    with torch.no_grad():
        expected = module(**request)
        torch.testing.assert_close(program(request)["output"], expected)
    file = export_onnx(program, tmp_path / "model.onnx")
    assert not {"Loop", "Scan"} & {node.op_type for node in onnx.load(file.path).graph.node}
    answered = run(make_session(file.path, 1), {name: values.numpy() for name, values in request.items()})
    np.testing.assert_allclose(answered["output"], expected.numpy(), rtol=1e-5, atol=1e-5)


OFFSETS = ([0, 1, 2, 3, 4], [0, 0, 3, 3, 4], [0, 0, 0, 0, 0], [0, 2, 5, 5, 5])


@pytest.mark.parametrize("mode", ["mean", "max"])
@pytest.mark.parametrize("padding", [None, 2])
def test_bags_of_different_lengths(mode: str, padding: int | None, tmp_path: Path) -> None:
    module = no_zeros(Ragged(mode, padding))
    ids = torch.tensor([4, 2, 9, 2, 11])
    program, analysis = check_any_plan(module, ids, torch.tensor(OFFSETS[0]))
    assert not BAGS & {node.target for node in program.module.graph.nodes}
    assert ("bag.weight", 1) in prunable(analysis)
    file = export_onnx(program, tmp_path / "model.onnx")
    assert not {"Loop", "Scan"} & {node.op_type for node in onnx.load(file.path).graph.node}
    session = make_session(file.path, 1)
    for offsets in OFFSETS:
        request = {"ids": ids.numpy(), "offsets": np.array(offsets)}
        with torch.no_grad():
            expected = module(ids, torch.tensor(offsets)).numpy()
        answer = run_program(program, read_file_arrays(program.signature, request))["output"]
        np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(run(session, request)["output"], expected, rtol=1e-5, atol=1e-5)


def test_the_rows_of_a_bag_are_its_valid_ids() -> None:
    program = capture(Bags("sum", None, False), (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3)))
    assert program.signature.inputs[0].ids == ((0, 19),)
