"""Scales and shifts folded into what stands next to them."""

import numpy as np
import pytest

from recprune_export.onnx.optimizer import fold_scale_shift
from tests.onnx.graphs import assert_left_alone, floats, graph, numbers, operators, rewritten

W, B = floats(6, 4), floats(6, seed=1)  # 4 inputs, 6 units, as a Gemm with transB has them
S4, T4, S6 = floats(4, seed=2), floats(4, seed=3), floats(6, seed=4)
GEMM = "Gemm<transB=1>"
X = [floats(1, 4, seed=8)], [floats(5, 4, seed=9)]


def test_a_scale_and_a_shift_before_a_layer() -> None:
    text = f"g (float[batch, 4] x) => (float[batch, 6] y) {{ a = Mul(x, s) b = Add(a, t) y = {GEMM}(b, w, bias) }}"
    folded = rewritten(fold_scale_shift, graph(text, s=S4, t=T4, w=W, bias=B), X, places=2)
    assert operators(folded) == {"Gemm": 1}


def test_a_scale_and_a_shift_behind_a_layer() -> None:
    text = f"g (float[batch, 4] x) => (float[batch, 6] y) {{ a = {GEMM}(x, w, bias) b = Mul(a, s) y = Sub(b, t) }}"
    folded = rewritten(fold_scale_shift, graph(text, s=S6, t=S6 + 1, w=W, bias=B), X, places=2)
    assert operators(folded) == {"Gemm": 1}


def test_between_two_layers_it_is_folded_once() -> None:
    text = f"g (float[batch, 4] x) => (float[batch, 4] y) {{ a = {GEMM}(x, w, bias) b = Mul(a, s) y = Gemm(b, v) }}"
    folded = rewritten(fold_scale_shift, graph(text, s=S6, w=W, bias=B, v=floats(6, 4, seed=5)), X)
    assert operators(folded) == {"Gemm": 2}


def test_a_batch_norm_behind_a_concat() -> None:
    text = (
        "g (float[batch, 4] x, float[batch, 3] z) => (float[batch, 6] y)"
        f" {{ a = Mul(x, s) b = Add(a, t) c = Concat<axis=1>(z, b) y = {GEMM}(c, w, bias) }}"
    )
    request = [floats(5, 4, seed=9), floats(5, 3, seed=7)]
    model = graph(text, s=S4[None], t=T4[None], w=floats(6, 7, seed=6), bias=B)
    assert operators(rewritten(fold_scale_shift, model, [request], places=2)) == {"Concat": 1, "Gemm": 1}


def test_a_scale_for_each_field_behind_a_view() -> None:
    text = (
        "g (float[batch, 2, 3] x) => (float[batch, 6] y)"
        f" {{ a = Mul(x, s) f = Reshape(a, flat) y = {GEMM}(f, w, bias) }}"
    )
    model = graph(text, s=floats(1, 2, 1, seed=3), flat=numbers(-1, 6), w=floats(6, 6), bias=B)
    folded = rewritten(fold_scale_shift, model, [[floats(5, 2, 3, seed=2)]])
    assert operators(folded) == {"Reshape": 1, "Gemm": 1}


def test_several_layers_that_read_it() -> None:
    text = (
        "g (float[batch, 4] x) => (float[batch, 6] y, float[batch, 2] z)"
        f" {{ a = Add(x, t) y = {GEMM}(a, w, bias) z = MatMul(a, v) }}"
    )
    folded = rewritten(fold_scale_shift, graph(text, t=T4, w=W, bias=B, v=floats(4, 2, seed=5)), X)
    assert operators(folded) == {"Gemm": 2}  # the product has a bias now


def test_a_layer_of_three_axes_and_its_bias() -> None:
    text = (
        "g (float[batch, 5, 4] x) => (float[batch, 5, 3] y)"
        " { a = Mul(x, s) b = MatMul(a, w) c = Add(b, bias) y = Mul(c, half) }"
    )
    model = graph(text, s=S4, w=floats(4, 3), bias=floats(3, seed=1), half=np.float32(0.5).reshape(()))
    folded = rewritten(fold_scale_shift, model, [[floats(2, 5, 4, seed=2)]], places=2)
    assert operators(folded) == {"MatMul": 1, "Add": 1}


def test_the_scale_of_a_table() -> None:
    text = "g (int64[batch, 3] ids) => (float[batch, 3, 4] y) { e = Gather(table, ids) s = Mul(e, root) y = Add(s, t) }"
    model = graph(text, table=floats(9, 4), root=np.float32(8.0).reshape(()), t=T4)
    request = [np.random.default_rng(0).integers(0, 9, size=(5, 3))]
    assert operators(rewritten(fold_scale_shift, model, [request], places=2)) == {"Gather": 1}


def test_zeros_of_a_weight_stay_zero() -> None:
    sparse = W * (np.random.default_rng(0).random(W.shape) < 0.4)
    text = f"g (float[batch, 4] x) => (float[batch, 6] y) {{ a = Mul(x, s) y = {GEMM}(a, w, bias) }}"
    folded = rewritten(fold_scale_shift, graph(text, s=S4, w=sparse, bias=B), X)
    (weight,) = [v.const_value.numpy() for v in folded.graph.initializers.values() if v.shape == (6, 4)]
    np.testing.assert_array_equal(weight == 0, sparse == 0)


MISFITS = {
    "returned": f"g (float[batch, 4] x) => (float[batch, 6] y, float[batch, 4] a) {{ a = Mul(x, s) y = {GEMM}(a, w) }}",
    "read by something else": (
        "g (float[batch, 4] x) => (float[batch, 6] y, float[batch, 4] r)"
        f" {{ a = Mul(x, s) y = {GEMM}(a, w) r = Relu(a) }}"
    ),
    "a weight of two layers": (
        "g (float[batch, 4] x, float[batch, 4] z) => (float[batch, 6] y, float[batch, 6] u)"
        f" {{ a = Mul(x, s) y = {GEMM}(a, w) u = {GEMM}(z, w) }}"
    ),
    "by rows": f"g (float[5, 4] x) => (float[5, 6] y) {{ a = Mul(x, by_row) y = {GEMM}(a, w) }}",
    "of two requests' parts": f"g (float[batch, 4] x, float[batch, 4] z) => (float[batch, 6] y) {{ a = Mul(x, z) y = {GEMM}(a, w) }}",
    "divided by": f"g (float[batch, 4] x) => (float[batch, 6] y) {{ a = Div(s, x) y = {GEMM}(a, w) }}",
    "before an activation": f"g (float[batch, 4] x) => (float[batch, 6] y) {{ a = Mul(x, s) b = Relu(a) y = {GEMM}(b, w) }}",
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_left_as_it_was(name: str) -> None:
    assert_left_alone(fold_scale_shift, graph(MISFITS[name], s=S4, w=W, by_row=floats(5, 1)))


def test_positions_that_differ_are_left_as_they_were() -> None:
    text = "g (float[batch, 5, 4] x) => (float[batch, 5, 3] y) { a = Mul(x, s) y = MatMul(a, w) }"
    assert_left_alone(fold_scale_shift, graph(text, s=floats(5, 1), w=floats(4, 3)))
