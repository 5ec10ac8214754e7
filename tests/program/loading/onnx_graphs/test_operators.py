"""Each operator computes what ONNX Runtime computes, in each form and operator set."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from recprune_export.program import BATCH, load_program
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


@pytest.mark.parametrize("name", sorted(FORMS.keys() - {"GatherElements"}))  # whose constant has a row for each row
def test_a_graph_of_it_answers_any_number_of_rows(name: str, tmp_path: Path) -> None:
    """The program, which is compared with ONNX Runtime when it is made, has a free batch."""
    form = FORMS[name]
    program = load_program(form.save(tmp_path / "m.onnx", form.opsets[-1])).program
    assert all(spec.shape[0] == BATCH for spec in program.signature.inputs)
