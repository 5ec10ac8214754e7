"""Tile-sparse layers in graphs that fit, and in graphs that do not."""

import numpy as np
import onnx_ir as ir
import pytest

from recprune_export.onnx.passes.tile_layers import tile_layers
from recprune_export.onnx.rewriting import Rewrite, rewrite
from tests.onnx.graphs import assert_left_alone, floats, graph, operators, rewritten
from tests.onnx.test_tiles import tiled

SIZES = (1, 5, 64)
IN, MIDDLE, OUT = 40, 48, 36
X = [[floats(rows, IN, seed=rows)] for rows in SIZES]


def weights(outputs: int, inputs: int, sizes: list[int], k: int = 6) -> np.ndarray:
    """[outputs, inputs], as PyTorch stores them."""
    assert sum(sizes) == outputs
    return np.ascontiguousarray(tiled(inputs, sizes, k, seed=outputs).T)


FIRST, SECOND, UNEVEN = (
    weights(MIDDLE, IN, [16] * 3),
    weights(OUT, MIDDLE, [12] * 3),
    weights(OUT, MIDDLE, [13, 12, 11]),
)


def mlp(second: np.ndarray = SECOND, between: str = "h = Relu(g)") -> ir.Model:
    """Two layers and a single logit."""
    return graph(
        f"g (float[batch, {IN}] x) => (float[batch, 1] y) {{ g = Gemm<transB=1>(x, w1, b1) {between}"
        " i = Gemm<transB=1>(h, w2, b2) j = Relu(i) y = Gemm<transB=1>(j, w3, b3) }",
        w1=FIRST, b1=floats(MIDDLE), w2=second, b2=floats(OUT), w3=floats(1, OUT), b3=floats(1), row=floats(MIDDLE),
        low=np.float32(-0.5), high=np.float32(0.75),
    )  # fmt: skip


@pytest.mark.parametrize("second", [SECOND, UNEVEN], ids=["even", "uneven"])
def test_an_mlp_is_feature_major_throughout(second: np.ndarray) -> None:
    made = rewritten(tile_layers, mlp(second), X, places=2)
    found = operators(made)
    assert found["Transpose"] == 1  # of the request; of one logit a view is enough
    assert (found["Gather"], found["MatMul"], found["Gemm"]) == (2, 2, 1)


@pytest.mark.parametrize("sizes", [[16, 16, 16], [17, 16, 15]], ids=["even", "uneven"])
def test_a_bias_may_be_one_row_that_was_computed(sizes: list[int]) -> None:
    """What all candidates share, as `share_inputs` leaves it; the row itself is not turned round."""
    model = graph(
        f"g (float[batch, {IN}] x, float[1, 7] u) => (float[batch, {OUT}] y) {{ c = Gemm<transB=1>(u, w0, b0)"
        " g = Gemm<transB=1>(x, w1, c) h = Relu(g) y = Gemm<transB=1>(h, w2, b2) }",
        w0=floats(MIDDLE, 7), b0=floats(MIDDLE), w1=weights(MIDDLE, IN, sizes), w2=floats(OUT, MIDDLE), b2=floats(OUT),
    )  # fmt: skip
    made = rewritten(tile_layers, model, [[*x, floats(1, 7, seed=2)] for x in X])
    assert operators(made)["Transpose"] == 2  # of x and y
    assert operators(made)["MatMul"] == 1


def test_what_is_zero_is_gone() -> None:
    """But for one row and one column of each tile, which hold the biases."""
    made = rewritten(tile_layers, mlp(), X, places=2)
    floating = [v.const_value for v in made.graph.initializers.values() if v.const_value and v.uses()]
    stored = [t.numpy() for t in floating if t.dtype == ir.DataType.FLOAT and len(t.shape) == 3]
    nonzero = np.count_nonzero(FIRST) + np.count_nonzero(SECOND)
    assert sum(np.count_nonzero(array) for array in stored) == nonzero + MIDDLE + OUT + 1
    assert sorted(array.shape for array in stored) == [(3, 12, 7), (3, 17, 7)]


def biased(width: int, between: str = "h = Relu(g)", sizes: list[int] | None = None) -> ir.Model:
    """A layer of a request so wide, and one behind it, both with biases and tiles."""
    return graph(
        f"g (float[batch, {width}] x) => (float[batch, {OUT}] y) {{ g = Gemm<transB=1>(x, w1, b1) {between}"
        " y = Gemm<transB=1>(h, w2, b2) }",
        w1=weights(MIDDLE, width, sizes or [16] * 3), b1=floats(MIDDLE), w2=SECOND, b2=floats(OUT),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("width", "between", "widened", "added"),
    [
        (IN, "h = Relu(g)", 1, 0),
        (100, "h = Relu(g)", 0, 1),  # the request is wider than what comes out: to copy it would cost more
        (512, "h = Relu(g)", 1, 0),  # but rows of a power of two are slow to transpose
        (100, "h = LeakyRelu<alpha=0.1>(g)", 0, 1),
        (100, "h = Gelu(g)", 0, 2),  # 1 does not stay 1
        (IN, "h = Gelu(g)", 1, 1),
    ],
)
def test_a_bias_is_the_weight_of_a_row_of_ones(width: int, between: str, widened: int, added: int) -> None:
    made = rewritten(
        tile_layers, biased(width, between), [[floats(rows, width, seed=rows)] for rows in SIZES], places=2
    )
    assert (operators(made)["Pad"], operators(made)["Add"]) == (widened, added)


def test_the_row_of_ones_is_one_that_uneven_tiles_leave() -> None:
    even, uneven = (rewritten(tile_layers, biased(IN, sizes=sizes), X, places=2) for sizes in ([16] * 3, [17, 16, 15]))
    shapes = [
        {tuple(v.shape) for v in made.graph.initializers.values() if v.shape is not None and len(v.shape) == 3}
        for made in (even, uneven)
    ]
    assert shapes[0] == shapes[1] == {(3, 17, 7), (3, 12, 7)}


def test_a_dense_layer_amid_tiles_hands_a_row_of_ones_on() -> None:
    model = graph(
        f"g (float[batch, 8] x) => (float[batch, {OUT}] y) {{ g = MatMul(x, w1) h = Relu(g)"
        " y = Gemm<transB=1>(h, w2, b2) }",
        w1=floats(8, MIDDLE), w2=SECOND, b2=floats(OUT),
    )  # fmt: skip
    made = rewritten(tile_layers, model, [[floats(rows, 8)] for rows in SIZES])
    assert operators(made)["Add"] == 0


@pytest.mark.parametrize(
    "between",
    [
        "s = Sigmoid(g) h = Mul(g, s)",
        "h = Clip(g, low, high)",
        "c = Mul(g, row) h = LeakyRelu<alpha=0.2>(c)",
        "c = Sub(row, g) h = Tanh(c)",
        "c = Sub(g, high) h = PRelu(c, row)",
        "h = Gelu(g)",
    ],
)
def test_activations_do_not_end_a_chain(between: str) -> None:
    made = rewritten(tile_layers, mlp(UNEVEN, between), X, places=2)
    assert operators(made)["Transpose"] == 1


@pytest.mark.parametrize("between", ["h = Softmax<axis=1>(g)", "c = Div(row, g) h = Relu(c)"])
def test_what_looks_at_a_row_gets_it_back(between: str) -> None:
    made = rewritten(tile_layers, mlp(between=between), X, places=2)
    assert operators(made)["Transpose"] == 3


def test_a_result_that_others_read_is_given_back_once() -> None:
    model = graph(
        f"g (float[batch, {IN}] x) => (float[batch, {MIDDLE}] h, float[batch, {2 * MIDDLE}] y)"
        " { m = MatMul(x, w) g = Add(m, b) h = Relu(g) t = Tanh(h) y = Concat<axis=1>(h, t) }",
        w=np.ascontiguousarray(FIRST.T), b=floats(MIDDLE),
    )  # fmt: skip
    made = rewritten(tile_layers, model, X)
    assert operators(made)["Transpose"] == 3
    assert [value.name for value in made.graph.outputs] == ["h", "y"]


def test_a_dense_layer_before_joins_where_its_request_is_narrower() -> None:
    def text(width: int) -> ir.Model:
        return graph(
            f"g (float[batch, {width}] x) => (float[batch, {OUT}] y)"
            " { g = Gemm<transB=1>(x, w1, b1) h = Relu(g) y = Gemm<transB=1>(h, w2, b2) }",
            w1=floats(MIDDLE, width), b1=floats(MIDDLE), w2=SECOND, b2=floats(OUT),
        )  # fmt: skip

    for width, turned in ((8, True), (100, False)):
        made = rewritten(tile_layers, text(width), [[floats(rows, width)] for rows in SIZES])
        (gemm,) = [node for node in made.graph if node.op_type == "Gemm"]
        assert (gemm.attributes.get_int("transB", 0) == 0) == turned


def test_inputs_that_nobody_reads_are_not_gathered_tile_by_tile() -> None:
    weight = floats(MIDDLE, IN)
    weight[:, ::2] = 0.0
    model = graph(f"g (float[batch, {IN}] x) => (float[batch, {MIDDLE}] y) {{ y = Gemm<transB=1>(x, w) }}", w=weight)
    made = rewritten(tile_layers, model, X)
    assert operators(made)["Reshape"] == 0


@pytest.mark.parametrize(
    "model",
    [
        graph(f"g (float[batch, {IN}] x) => (float[batch, {MIDDLE}] y) {{ y = Gemm<transB=1>(x, w) }}", w=floats(MIDDLE, IN)),
        graph(
            f"g (float[batch, 3, {IN}] x) => (float[batch, 3, {MIDDLE}] y) {{ y = MatMul(x, w) }}",
            w=np.ascontiguousarray(FIRST.T),
        ),
        graph(
            "g (float[batch, 48] x) => (float[batch, 48] y) { h = Gemm<transB=1>(x, w) y = Gemm<transB=1>(h, w) }",
            w=weights(48, 48, [16] * 3),
        ),
    ],
    ids=["dense", "three axes", "one weight, two layers"],
)  # fmt: skip
def test_a_graph_that_does_not_fit_is_left_alone(model: ir.Model) -> None:
    assert_left_alone(tile_layers, model)


def wide(batches: tuple[int, ...], side: int = 512) -> Rewrite:
    """A layer that is worth it, and behind it one that is too small."""
    small = weights(16, side, [8, 8], k=8)
    model = graph(
        f"g (float[batch, {side}] x) => (float[batch, 16] y)"
        " { g = Gemm<transB=1>(x, w1, b1) h = Relu(g) y = Gemm<transB=1>(h, w2, b2) }",
        w1=weights(side, side, [64] * 8, k=50), b1=floats(side), w2=small, b2=floats(16),
    )  # fmt: skip
    return rewrite(model, [tile_layers], [[floats(5, side)]], batches)[1][0]


def test_layers_are_chosen_by_what_they_cost() -> None:
    report = wide((64, 256))
    assert report.kept
    assert "w1" in report.at
    assert report.places == len(report.at)
    assert all(report.after[batch] < report.before[batch] for batch in report.before)


def test_a_layer_that_does_not_pay_stays_dense() -> None:
    text = f"g (float[batch, {IN}] x) => (float[batch, {MIDDLE}] y) {{ g = Gemm<transB=1>(x, w) y = Relu(g) }}"
    made, (report,) = rewrite(graph(text, w=FIRST), [tile_layers], X[:1], (1, 64))
    assert not report.kept
    assert "slower" in report.reason
    assert operators(made)["Gemm"] == 1
