"""Layers of sequences as products of two axes."""

import numpy as np
import pytest

from recprune_export.onnx import estimate_cost, rewrite, strip_weights
from recprune_export.onnx.optimizer import matmul_add_to_gemm
from tests.onnx.graphs import assert_left_alone, floats, graph, numbers, operators, rewritten

WEIGHTS = {"w": floats(8, 16), "b": floats(16), "v": floats(16, 4), "c": floats(4), "heads": numbers(-1, 5, 2, 8)}
REQUESTS = [[floats(3, 5, 8)], [floats(1, 5, 8)]]


def test_a_feed_forward_of_places_has_two_views_left() -> None:
    text = (
        "g (float[batch, 5, 8] x) => (float[batch, 5, 4] y)"
        " { a = MatMul(x, w) h = Add(a, b) r = Relu(h) d = MatMul(r, v) y = Add(c, d) }"
    )
    found = rewritten(matmul_add_to_gemm, graph(text, **WEIGHTS), REQUESTS, places=2)
    assert operators(found)["Gemm"] == 2
    assert operators(found)["Add"] == operators(found)["MatMul"] == 0
    assert [node.op_type for node in found.graph if node.op_type != "Reshape"] == ["Gemm", "Relu", "Gemm"]


def test_layers_that_read_the_same_share_its_view_and_what_follows_is_one_view() -> None:
    text = (
        "g (float[batch, 5, 8] x) => (float[batch, 5, 2, 8] q, float[batch, 5, 2, 8] k)"
        " { a = MatMul(x, w) m = Add(a, b) q = Reshape(m, heads) e = MatMul(x, u) n = Add(e, b) k = Reshape(n, heads) }"
    )
    found = rewritten(matmul_add_to_gemm, graph(text, u=floats(8, 16, seed=1), **WEIGHTS), REQUESTS, places=2)
    assert operators(found) == {"Reshape": 3, "Gemm": 2}


@pytest.mark.parametrize("bias", [floats(1, 1, 16), floats(1), floats(1, 1, 1)], ids=lambda bias: str(bias.shape))
def test_a_bias_may_have_more_axes_or_one_number(bias: np.ndarray) -> None:
    text = "g (float[batch, 5, 8] x) => (float[batch, 5, 16] y) { a = MatMul(x, w) y = Add(a, b) }"
    rewritten(matmul_add_to_gemm, graph(text, **(WEIGHTS | {"b": bias})), REQUESTS)


def test_an_output_of_the_model_keeps_its_name() -> None:
    text = "g (float[batch, 5, 8] x) => (float[batch, 5, 16] y) { a = MatMul(x, w) y = Add(a, b) }"
    found = rewritten(matmul_add_to_gemm, graph(text, **WEIGHTS), REQUESTS)
    assert [value.name for value in found.graph.outputs] == ["y"]


@pytest.mark.parametrize(
    "text",
    [
        "g (float[batch, 8] x) => (float[batch, 16] y) { a = MatMul(x, w) y = Add(a, b) }",
        "g (float[batch, 5, 8] x) => (float[batch, 5, 16] y) { y = MatMul(x, w) }",
        "g (float[batch, length, 8] x) => (float[batch, length, 16] y) { a = MatMul(x, w) y = Add(a, b) }",
        "g (float[batch, 5, 8] x, float[16] s) => (float[batch, 5, 16] y) { a = MatMul(x, w) y = Add(a, s) }",
    ],
    ids=["two axes", "no bias", "places of any number", "a computed sum"],
)
def test_what_does_not_fit_is_left_alone(text: str) -> None:
    assert_left_alone(matmul_add_to_gemm, graph(text, **WEIGHTS))


def test_it_is_estimated_to_be_faster() -> None:
    """ONNX Runtime adds the bias of a product of three axes in a pass of its own."""
    text = "g (float[batch, 50, 64] x) => (float[batch, 50, 64] y) { a = MatMul(x, w) h = Add(a, b) y = Relu(h) }"
    model = graph(text, w=floats(64, 64), b=floats(64))
    found, (report,) = rewrite(model, (matmul_add_to_gemm,), [[floats(2, 50, 64)]], (1, 32))
    assert report.accepted
    before, after = (estimate_cost(strip_weights(each).model, 32).estimate for each in (model, found))
    assert after < 0.95 * before
