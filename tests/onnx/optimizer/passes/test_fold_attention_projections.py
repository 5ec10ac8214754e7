"""Attention whose heads read the same keys and values."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from recprune_export.onnx import count_weights, estimate_cost, rewrite, strip_weights
from recprune_export.onnx.graph import BITS, get_bits
from recprune_export.onnx.optimizer import fold_attention_projections
from recprune_export.onnx.optimizer.linear_layers import match_linear
from tests.onnx.graphs import assert_left_alone, floats, graph, numbers, operators, rewritten

L, DIM, HEADS, WIDTH = 6, 3, 2, 4
LOWEST = np.array(np.finfo(np.float32).min)
MASKS = {
    "none": "z = Mul(scores, one)",
    "added": "m = Where(known, zero, low) z = Add(scores, m)",
    "added, mask first": "m = Where(known, zero, low) z = Add(m, scores)",
    "chosen": "z = Where(known, scores, low)",
    "constant": "z = Add(scores, causal)",
    "two": "d = Div(scores, two) m = Where(known, zero, low) a = Add(d, m) z = Add(a, causal)",
}


def attention(mask: str, dim: int = DIM, bias: bool = True, queries: int = L, **change: np.ndarray) -> ir.Model:
    """Attention as it is exported, with `queries` positions that ask."""
    inner = HEADS * WIDTH
    layers: Mapping[str, np.ndarray] = {
        **{f"w{name}": floats(dim, inner, seed=seed) for seed, name in enumerate("qkv")},
        **{f"b{name}": floats(inner, seed=9 + seed) for seed, name in enumerate("qkv")},
        "wo": floats(inner, 5, seed=5), "bo": floats(5, seed=6),
    }  # fmt: skip
    constants = {
        "heads": numbers(-1, L, HEADS, WIDTH), "asking": numbers(-1, queries, HEADS, WIDTH), "flat": numbers(-1, queries, inner),
        "s": np.array(0.7, np.float32), "zero": np.array(0, np.float32), "one": np.array(1, np.float32),
        "two": np.array(2, np.float32), "low": LOWEST, "causal": np.where(np.tri(queries, L) > 0, np.float32(0), LOWEST),
    }  # fmt: skip

    def project(name: str, x: str, sizes: str, perm: str) -> str:
        layer = f"{name}1 = MatMul({x}, w{name})" + (f" {name}2 = Add({name}1, b{name})" if bias else "")
        return f"{layer} {name}3 = Reshape({name}{1 + bias}, {sizes}) {name}4 = Transpose<perm = {perm}>({name}3)"

    body = (
        f"{project('q', 'x', 'asking', '[0, 2, 1, 3]')} q5 = Mul(q4, s)"
        f" {project('k', 'h', 'heads', '[0, 2, 1, 3]')} k5 = Transpose<perm = [0, 1, 3, 2]>(k4) k6 = Mul(s, k5)"
        f" {project('v', 'h', 'heads', '[0, 2, 1, 3]')} scores = MatMul(q5, k6) {MASKS.get(mask, mask)}"
        " p = Softmax<axis = -1>(z) o1 = MatMul(p, v4) o2 = Transpose<perm = [0, 2, 1, 3]>(o1) o3 = Reshape(o2, flat)"
        " o4 = MatMul(o3, wo) y = Add(o4, bo)"
    )
    inputs = f"float[batch, {queries}, {dim}] x, float[batch, {L}, {dim}] h, bool[batch, 1, 1, {L}] known"
    return graph(f"g ({inputs}) => (float[batch, {queries}, 5] y) {{ {body} }}", **layers, **(constants | change))


def request(rows: int, queries: int = L) -> list[np.ndarray]:
    """Rows, of which the first knows no item."""
    known = np.random.default_rng(rows).random((rows, 1, 1, L)) < 0.5
    known[0] = False
    return [floats(rows, queries, DIM, seed=rows), floats(rows, L, DIM, seed=rows + 1), known]


@pytest.mark.parametrize("mask", MASKS)
def test_the_answers_are_the_same(mask: str) -> None:
    found = rewritten(fold_attention_projections, attention(mask), [request(1), request(5)])
    assert operators(found)["Transpose"] == 1  # of the keys, which ONNX Runtime fuses into the product


def test_layers_without_a_bias_and_one_query() -> None:
    rewritten(fold_attention_projections, attention("added", bias=False), [request(3)])
    rewritten(fold_attention_projections, attention("added", queries=1), [request(3, 1)])


@pytest.mark.parametrize(
    "chain",
    [
        "z = Add(scores, slopes)",
        "z = Where(known, scores, zero)",
        "z = Sin(scores)",
        "c = Add(scores, slopes) z = Add(c, causal)",
    ],
    ids=["a bias for each head", "other scores are no mask", "another function", "inside a chain"],
)
def test_what_does_not_fit_is_left_alone(chain: str) -> None:
    assert_left_alone(fold_attention_projections, attention(chain, slopes=floats(HEADS, L, L)))


@pytest.mark.parametrize("mask", MASKS)
def test_narrow_heads_read_the_keys_and_values_of_all(mask: str) -> None:
    model = attention(mask, dim=4 * WIDTH)
    known = request(3)[2]
    found = rewritten(
        fold_attention_projections, model, [[floats(3, L, 4 * WIDTH), floats(3, L, 4 * WIDTH, seed=1), known]]
    )
    assert operators(found)["Transpose"] == 1
    before, after = (count_weights(each).rest.nonzero for each in (model, found))
    assert after <= before


def test_it_has_fewer_parameters_and_is_estimated_to_be_faster() -> None:
    model = attention("added")
    found, (report,) = rewrite(model, (fold_attention_projections,), [request(2)], (1, 256))
    assert report.accepted
    before, after = (count_weights(each).rest.parameters for each in (model, found))
    assert (
        before - after == 3 * (DIM + 1) * HEADS * WIDTH + HEADS * WIDTH * 5 - HEADS * DIM * (DIM + 1) - HEADS * DIM * 5
    )
    costs = [estimate_cost(strip_weights(each).model, 256).estimate for each in (model, found)]
    assert costs[1] < 0.8 * costs[0]


@pytest.mark.parametrize("dim", [DIM, 4 * WIDTH], ids=["wide heads", "narrow heads"])
def test_products_of_weights_have_the_fewer_bits(dim: int) -> None:
    model = attention("added", dim=dim)
    planned = {"wq": 8, "wk": 32, "wv": 8, "wo": 8}
    for name, bits in planned.items():
        model.graph.initializers[name].meta[BITS] = bits
    known = request(3)[2]
    found = rewritten(fold_attention_projections, model, [[floats(3, L, dim), floats(3, L, dim, seed=1), known]])
    layers = [layer for layer in map(match_linear, found.graph) if layer is not None]
    assert {get_bits(layer.weight) for layer in layers if layer.weight.name not in planned} == {8}
    assert all(get_bits(layer.weight) == planned.get(layer.weight.name or "", 8) for layer in layers)


def test_weights_of_few_levels_are_left_alone() -> None:
    model = attention("added")
    model.graph.initializers["wv"].meta[BITS] = 4
    assert_left_alone(fold_attention_projections, model)
