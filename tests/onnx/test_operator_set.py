"""A file in another operator set gives the same answers; an operator that the set lacks is named."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from recprune_export.errors import ExportError
from recprune_export.finetuning.task import run_program
from recprune_export.onnx import export_onnx, make_session, run
from recprune_export.onnx.export import ServingConfig
from recprune_export.onnx.operator_set import set_opset
from recprune_export.program import sample_request
from recprune_export.program.capture import capture
from recprune_export.runtime_releases import RuntimeTarget


class Ranker(nn.Module):
    """Operators that changed between the sets: Gelu, LayerNormalization, ReduceMax, Pad, a division without remainder."""

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.Embedding(50, 8)
        self.mlp = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 1))

    def forward(self, history: torch.Tensor) -> torch.Tensor:
        rows = self.items(history % 50)
        score: torch.Tensor = self.mlp(rows.amax(1) + torch.nn.functional.pad(rows.mean(1), (1, 0))[:, :8])
        return score.squeeze(-1)


@pytest.mark.parametrize("opset", [18, 19, 20, 21, 23, 26])
def test_answers_are_equal_in_each_operator_set(tmp_path: Path, opset: int) -> None:
    torch.manual_seed(0)
    program = capture(Ranker().eval(), (torch.arange(12).reshape(3, 4),))
    file = export_onnx(program, tmp_path / "model.onnx", serving=ServingConfig(runtime=RuntimeTarget(opset)))
    model = onnx.load(file.path)
    assert file.opset == opset == model.opset_import[0].version
    assert model.ir_version == onnx.helper.find_min_ir_version_for(model.opset_import)
    request = sample_request(program.signature, 7, seed=1)
    answers, expected = run(make_session(file.path, 1), request), run_program(program, request)
    for name, values in expected.items():
        np.testing.assert_allclose(answers[name], values, rtol=1e-5, atol=1e-6)


def graph_of(node: ir.Node, opset: int) -> ir.Model:
    graph = ir.Graph(list(node.inputs), node.outputs, nodes=[node], opset_imports={"": opset})
    return ir.Model(graph, ir_version=10)


def test_an_operator_that_a_set_lacks_is_named() -> None:
    gelu = ir.node("Gelu", [ir.Value(name="x")])
    with pytest.raises(
        ExportError, match="The model needs Gelu, which operator set 18 does not have: give a larger --opset"
    ):
        set_opset(graph_of(gelu, 20), 18)


def test_an_attribute_that_a_set_lacks_is_named() -> None:
    cast = ir.node("Cast", [ir.Value(name="x")], attributes={"to": 1, "saturate": 0})
    with pytest.raises(ExportError, match="The model needs Cast with 'saturate', which operator set 18 does not have"):
        set_opset(graph_of(cast, 20), 18)
