"""What is joined before a linear layer: sorted by width, or folded into the layer."""

import numpy as np
import pytest

from recprune_export.onnx import count_weights
from recprune_export.onnx.optimizer import fold_table_into_gemm, fuse_tables, sort_concat_by_width
from tests.onnx.graphs import assert_left_alone, floats, graph, numbers, operators, rewritten

WIDTHS = (3, 5, 3, 5, 3, 5, 3, 5)
ROWS = 6


def ragged(reader: str, gives: str) -> str:
    takes = ", ".join([*(f"int64[batch] i{n}" for n in range(8)), "float[batch, 2] x"])
    lookups = "\n".join(f"e{n} = Gather(t{n}, i{n})" for n in range(8))
    joined = ", ".join(["e0", "x", *(f"e{n}" for n in range(1, 8))])
    return f"g ({takes}) => ({gives}) {{ {lookups} c = Concat<axis=1>({joined}) {reader} }}"


TABLES = {f"t{n}": floats(ROWS, width, seed=n) for n, width in enumerate(WIDTHS)}
REQUEST = [*np.random.default_rng(0).integers(0, ROWS, size=(8, 4)), floats(4, 2)]


@pytest.mark.parametrize(
    ("reader", "weight"),
    [
        ("y = Gemm<transB=1>(c, w, b)", floats(7, 34, seed=20)),
        ("y = MatMul(c, w)", floats(34, 7, seed=20)),
        ("v = Unsqueeze(c, one) f = Squeeze(v, one) y = Gemm(f, w, b)", floats(34, 7, seed=20)),
    ],
)
def test_widths_are_sorted_and_then_looked_up_together(reader: str, weight: np.ndarray) -> None:
    model = graph(ragged(reader, "float[batch, 7] y"), **TABLES, w=weight, b=floats(7), one=numbers(1))
    assert fuse_tables(model.clone()) == 0
    grouped = rewritten(sort_concat_by_width, model, [REQUEST])
    assert operators(rewritten(fuse_tables, grouped, [REQUEST], places=2))["Gather"] == 2


def test_a_join_that_something_else_reads_stays() -> None:
    reader, gives = "y = Gemm<transB=1>(c, w, b) r = Relu(c)", "float[batch, 7] y, float[batch, 34] r"
    assert_left_alone(sort_concat_by_width, graph(ragged(reader, gives), **TABLES, w=floats(7, 34), b=floats(7)))


def test_one_width_needs_no_sorting() -> None:
    tables = {f"t{n}": floats(ROWS, 4, seed=n) for n in range(8)}
    text = ragged("y = Gemm<transB=1>(c, w, b)", "float[batch, 7] y").replace("e0, x", "x, e0")
    assert_left_alone(sort_concat_by_width, graph(text, **tables, w=floats(7, 34), b=floats(7)))


SMALL = (
    "g (int64[batch] i, int64[batch] j, float[batch, 3] x) => (float[batch, 8] y)"
    " { e = Gather(small, i) f = Gather(large, j) c = Concat<axis=1>(x, e, f) h = Gemm<transB=1>(c, w, b) y = Relu(h) }"
)
PARTS = {"small": floats(3, 6), "large": floats(50, 4, seed=1), "w": floats(8, 13, seed=2), "b": floats(8, seed=3)}


def request(rows: int) -> list[np.ndarray]:
    rng = np.random.default_rng(rows)
    return [rng.integers(0, 3, size=rows), rng.integers(0, 50, size=rows), floats(rows, 3, seed=rows)]


def test_a_small_table_is_folded_into_the_layer() -> None:
    model = graph(SMALL, **PARTS)
    folded = rewritten(fold_table_into_gemm, model, [request(1), request(5)])
    assert [v.shape for v in folded.graph.initializers.values() if v.name == "small_folded"] == [(3, 8)]
    before, after = count_weights(model), count_weights(folded)
    assert after.tables.parameters == 3 * 8 + 50 * 4
    assert after.tables.parameters + after.rest.parameters < before.tables.parameters + before.rest.parameters


def test_a_table_that_would_make_the_file_larger_stays() -> None:
    assert_left_alone(fold_table_into_gemm, graph(SMALL, **{**PARTS, "small": floats(40, 6)}))


def test_a_table_or_a_row_that_is_read_elsewhere_stays() -> None:
    text = SMALL.replace("float[batch, 8] y)", "float[batch, 8] y, float[batch, 6] r)").replace(
        "h =", "r = Relu(e) h ="
    )
    assert_left_alone(fold_table_into_gemm, graph(text, **PARTS))
    text = SMALL.replace("float[batch, 8] y)", "float[batch, 8] y, float[batch, 6] r)").replace(
        "h =", "r = Gather(small, j) h ="
    )
    assert_left_alone(fold_table_into_gemm, graph(text, **PARTS))
