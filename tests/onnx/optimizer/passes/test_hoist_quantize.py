"""Roundings ahead of what only moves numbers, and roundings that stay where they are."""

import numpy as np
import onnx_ir as ir
import pytest

from recprune_export.onnx import hoist_quantize, rewrite
from tests.onnx.graphs import assert_left_alone, floats, graph, numbers, operators, rewritten

FIELDS, DIM = 5, 3
PAIRS = np.stack(np.triu_indices(FIELDS, 1), axis=1)
X = [[floats(rows, FIELDS, DIM, seed=rows), floats(rows, 4, seed=rows)] for rows in (1, 7, 64)]
STEPS = {"scale": np.float32(0.02), "zero": np.uint8(100)}


def model(body: str, width: int, takes: str = "", gives: str = "", **weights: np.ndarray) -> ir.Model:
    """A body that makes z, [batch, width], from x, [batch, 5, 3], and d, [batch, 4]; z is rounded and multiplied."""
    return graph(
        f"g (float[batch, {FIELDS}, {DIM}] x, float[batch, 4] d{takes}) => (float[batch, 2] y{gives}) {{ {body}"
        " q = QuantizeLinear(z, scale, zero) r = DequantizeLinear(q, scale, zero) y = MatMul(r, w) }",
        w=floats(width, 2), **(STEPS | weights),
    )  # fmt: skip


PICKED = (
    "t = Transpose<perm=[0,2,1]>(x) m = MatMul(x, t) u = Transpose<perm=[1,2,0]>(m) p = GatherND(u, pairs)"
    " v = Transpose<perm=[1,0]>(p) f = Relu(d) z = Concat<axis=1>(f, v)"
)
WIDE = 4 + len(PAIRS)


def rounded(made: ir.Model) -> set[str]:
    """What makes the numbers that are rounded."""
    readers = [node.inputs[0] for node in made.graph if node.op_type == "QuantizeLinear"]
    return {value.producer().op_type for value in readers if value is not None and value.producer() is not None}  # type: ignore[union-attr]


def test_pairs_are_picked_in_eight_bits() -> None:
    made = rewritten(hoist_quantize, model(PICKED, WIDE, pairs=PAIRS), X)
    assert rounded(made) == {"MatMul", "Relu"}
    assert operators(made)["QuantizeLinear"] == 2


@pytest.mark.parametrize(
    ("body", "width"),
    [
        ("s = Relu(x) z = Reshape(s, flat)", FIELDS * DIM),
        ("s = Relu(x) z = Flatten(s)", FIELDS * DIM),
        ("s = Relu(x) c = Gather<axis=1>(s, some) z = Flatten(c)", 2 * DIM),
        ("s = Relu(x) c = Slice(s, one, four, one) z = Flatten(c)", 3 * DIM),
        ("s = Relu(d) u = Unsqueeze(s, one) z = Squeeze(u, one)", 4),
    ],
)
def test_whatever_moves_numbers_moves_bytes(body: str, width: int) -> None:
    some = {"flat": numbers(0, -1), "some": numbers(3, 1), "one": numbers(1), "four": numbers(4)}
    assert rounded(rewritten(hoist_quantize, model(body, width, **some), X)) == {"Relu"}


def test_the_rounding_of_several_readers_is_moved_once() -> None:
    body = "s = Relu(x) z = Flatten(s)"
    both = graph(
        f"g (float[batch, {FIELDS}, {DIM}] x) => (float[batch, 2] y, float[batch, 2] o) {{ {body}"
        " q = QuantizeLinear(z, scale, zero) r = DequantizeLinear(q, scale, zero) y = MatMul(r, w)"
        " l = DequantizeLinear(q, scale, zero) o = MatMul(l, w) }",
        w=floats(FIELDS * DIM, 2), **STEPS,
    )  # fmt: skip
    assert operators(rewritten(hoist_quantize, both, [x[:1] for x in X]))["QuantizeLinear"] == 1


@pytest.mark.parametrize(
    "left",
    [
        model("z = Relu(d)", 4),
        model("s = Relu(x) z = Flatten(s) e = Relu(z)", FIELDS * DIM, gives=f", float[batch, {FIELDS * DIM}] e"),
        model("s = Relu(x) z = Flatten(s)", FIELDS * DIM, gives=f", float[batch, {FIELDS * DIM}] z"),
        model("z = Gather(table, i)", 6, takes=", int64[batch] i", table=floats(9, 6)),
        model("z = Concat<axis=1>(d, row)", 6, row=floats(1, 2)),
        model("z = Relu(d)", 4, scale=np.full(4, 0.02, np.float32), zero=np.full(4, 100, np.uint8)),
    ],
    ids=["computed", "read by others", "an output", "a table", "a constant", "steps of many sizes"],
)
def test_a_graph_that_does_not_fit_is_left_alone(left: ir.Model) -> None:
    assert_left_alone(hoist_quantize, left)


def test_what_would_round_more_than_it_saves_stays() -> None:
    """Of 50 positions one is picked: to round all of them costs more than to move one as floats."""
    picks = graph(
        "g (float[batch, 50, 64] x) => (float[batch, 2] y) { s = Relu(x) z = Gather<axis=1>(s, last)"
        " q = QuantizeLinear(z, scale, zero) r = DequantizeLinear(q, scale, zero) y = MatMul(r, w) }",
        w=floats(64, 2), last=np.int64(49), **STEPS,
    )  # fmt: skip
    _, (report,) = rewrite(picks, [hoist_quantize], [[floats(3, 50, 64)]], (1, 64))
    assert not report.accepted
    pairs, (kept,) = rewrite(model(PICKED, WIDE, pairs=PAIRS), [hoist_quantize], X[:1], (64, 1024))
    assert kept.accepted
    assert rounded(pairs) == {"MatMul", "Relu"}
