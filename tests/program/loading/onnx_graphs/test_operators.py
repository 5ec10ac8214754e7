"""Each operator computes what ONNX Runtime computes, in each form and operator set."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from recprune_export.program.loading.onnx_graphs.graph_module import OnnxModule
from recprune_export.program.loading.onnx_graphs.onnx_graph import read_onnx_graph
from tests.program.loading.onnx_graphs.operator_forms import FORMS, Form

CASES = [pytest.param(form, opset, id=f"{name}-{opset}") for name, form in FORMS.items() for opset in form.opsets]


@pytest.mark.parametrize(("form", "opset"), CASES)
def test_an_operator_computes_what_onnx_runtime_computes(form: Form, opset: int, tmp_path: Path) -> None:
    path = form.save(tmp_path / "m.onnx", opset)
    (expected,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, form.inputs)
    module = OnnxModule(read_onnx_graph(path))
    with torch.no_grad():
        (actual,) = module(*map(torch.from_numpy, form.inputs.values()))
    assert actual.numpy().dtype == expected.dtype
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5, atol=1e-6)
