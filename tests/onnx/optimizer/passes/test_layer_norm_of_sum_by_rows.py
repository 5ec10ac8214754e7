"""Norms of sums as rows of two axes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.onnx import rewrite
from recprune_export.onnx.optimizer import layer_norm_of_sum_by_rows, matmul_add_to_gemm
from tests.onnx.graphs import assert_left_alone, floats, graph, operators, rewritten

NORM = "LayerNormalization<axis=-1, epsilon=0.00001>"


@settings(max_examples=15)
@given(length=st.integers(1, 5), width=st.integers(2, 7), batch=st.integers(1, 4))
def test_a_residual_that_is_read_again_stays(length: int, width: int, batch: int) -> None:
    shape = f"float[batch, {length}, {width}]"
    text = f"g ({shape} x, {shape} y) => ({shape} z) {{ a = Add(x, y) n = {NORM}(a, s, b) z = Add(n, a) }}"
    request = [floats(batch, length, width), floats(batch, length, width, seed=1)]
    found = rewritten(layer_norm_of_sum_by_rows, graph(text, s=floats(width), b=floats(width)), [request])
    (norm,) = [node for node in found.graph if node.op_type == "LayerNormalization"]
    assert norm.inputs[0] is not None
    assert norm.inputs[0].shape is not None
    assert len(norm.inputs[0].shape) == 2


def test_rows_of_layers_stay_rows() -> None:
    weights = {"s": floats(8), "b": floats(8), "w": floats(8, 8), "c": floats(8)}
    text = (
        "g (float[batch, 5, 8] x) => (float[batch, 5, 8] z)"
        f" {{ l = MatMul(x, w) m = Add(l, c) a = Add(m, x) n = {NORM}(a, s, b) k = MatMul(n, w) z = Add(k, c) }}"
    )
    model = graph(text, **weights)
    matmul_add_to_gemm(model)
    found = rewritten(
        layer_norm_of_sum_by_rows, model, [[floats(3, 5, 8)]]
    )  # x is viewed twice, which is removed later
    assert operators(found) == {"Gemm": 2, "Add": 1, "LayerNormalization": 1, "Reshape": 3}


@pytest.mark.parametrize(
    "text",
    [
        f"g (float[batch, 5, 8] x) => (float[batch, 5, 8] z) {{ z = {NORM}(x, s, b) }}",
        f"g (float[batch, 8] x, float[batch, 8] y) => (float[batch, 8] z) {{ a = Add(x, y) z = {NORM}(a, s, b) }}",
        f"g (float[batch, 5, 8] x, float[5, 8] y) => (float[batch, 5, 8] z) {{ a = Add(x, y) z = {NORM}(a, s, b) }}",
        "g (float[batch, 5, 8] x, float[batch, 5, 8] y) => (float[batch, 5, 8] z)"
        " { a = Add(x, y) z = LayerNormalization<axis=1>(a, q) }",
    ],
    ids=["no sum", "two axes", "a broadcast operand", "a norm of two axes"],
)
def test_what_does_not_fit_is_left_alone(text: str) -> None:
    assert_left_alone(layer_norm_of_sum_by_rows, graph(text, s=floats(8), b=floats(8), q=floats(5, 8)))


def test_it_is_estimated_to_be_faster() -> None:
    text = f"g (float[batch, 50, 64] x, float[batch, 50, 64] y) => (float[batch, 50, 64] z) {{ a = Add(x, y) z = {NORM}(a, s, b) }}"
    request: list[np.ndarray] = [floats(2, 50, 64), floats(2, 50, 64, seed=1)]
    (report,) = rewrite(graph(text, s=floats(64), b=floats(64)), (layer_norm_of_sum_by_rows,), [request], (1, 32))[1]
    assert report.accepted
    assert all(report.after[batch] < report.before[batch] for batch in (1, 32))
