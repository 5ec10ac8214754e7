"""Wide products without packed weights."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recprune_export.onnx import rewrite
from recprune_export.onnx.counts import count_weights
from recprune_export.onnx.optimizer import match_linear, pack_wide_products, unpack_wide_products
from recprune_export.onnx.optimizer.optimizer_constants import MAX_UNPACKED_INPUTS, MIN_UNPACKED_OUTPUTS
from tests.onnx.graphs import assert_alike, assert_left_alone, floats, graph, operators, rewritten

WITH_BIAS = "g (float[batch, 3, {inputs}] x) => (float[batch, 3, {outputs}] y) {{ a = MatMul(x, w) y = Add(a, b) }}"
WITHOUT = "g (float[batch, 3, {inputs}] x) => (float[batch, 3, {outputs}] y) {{ y = MatMul(x, w) }}"
OF_TABLE = (
    "g (int64[batch, 3] ids) => (float[batch, 3, {outputs}] y)"
    " {{ x = Gather(e, ids) t = Transpose<perm=[1, 0]>(e) a = MatMul(x, t) y = Add(a, b) }}"
)


@settings(max_examples=15)
@given(
    inputs=st.integers(1, MAX_UNPACKED_INPUTS), outputs=st.integers(MIN_UNPACKED_OUTPUTS, 700), has_bias=st.booleans()
)
def test_answers_and_weights_stay_and_it_can_be_undone(inputs: int, outputs: int, has_bias: bool) -> None:
    text = (WITH_BIAS if has_bias else WITHOUT).format(inputs=inputs, outputs=outputs)
    weights = {"w": floats(inputs, outputs), **({"b": floats(outputs)} if has_bias else {})}
    model = graph(text, **weights)
    requests = [[floats(4, 3, inputs)], [floats(1, 3, inputs, seed=1)]]
    found = rewritten(unpack_wide_products, model, requests)
    assert count_weights(found) == count_weights(model)
    assert not any(match_linear(node) for node in found.graph)
    restored = rewritten(pack_wide_products, found, requests)
    assert operators(restored) == operators(model)
    assert_alike(model, restored, requests)


def test_scores_of_a_table_that_is_looked_up_share_it() -> None:
    model = graph(OF_TABLE.format(outputs=500), e=floats(500, 8), b=floats(500))
    requests = [[np.array([[1, 2, 499]])]]
    found = rewritten(unpack_wide_products, model, requests)
    assert count_weights(found) == count_weights(model)
    assert operators(rewritten(pack_wide_products, found, requests)) == operators(model)


@pytest.mark.parametrize(
    "text",
    [
        "g (float[batch, 8] x) => (float[batch, 500] y) { y = MatMul(x, w) }",
        "g (float[batch, 3, 8] x) => (float[batch, 3, 20] y) { y = MatMul(x, narrow) }",
        "g (float[batch, 3, 65] x) => (float[batch, 3, 500] y) { y = MatMul(x, deep) }",
        "g (float[batch, 3, 8] x, float[8, 500] v) => (float[batch, 3, 500] y) { y = MatMul(x, v) }",
    ],
    ids=["two axes", "few outputs", "many inputs", "a computed weight"],
)
def test_what_does_not_fit_is_left_alone(text: str) -> None:
    weights = {"w": floats(8, 500), "narrow": floats(8, 20), "deep": floats(65, 500)}
    assert_left_alone(unpack_wide_products, graph(text, **weights))


@pytest.mark.parametrize(("batch", "accepted"), [(1, False), (256, True)])
def test_it_is_taken_for_results_of_many_pages(batch: int, accepted: bool) -> None:
    text = "g (float[batch, 12, 16] x) => (float[batch, 12, 1000] y) { a = MatMul(x, w) y = Add(a, b) }"
    model = graph(text, w=floats(16, 1000), b=floats(1000))
    (report,) = rewrite(model, (unpack_wide_products,), [[floats(2, 12, 16)]], (batch,))[1]
    assert report.accepted == accepted
