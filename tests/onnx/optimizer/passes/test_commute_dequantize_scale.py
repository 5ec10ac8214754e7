"""Scales of dimensions that change sides, and those that stay."""

import numpy as np
import onnx_ir as ir
import pytest

from recprune_export.onnx import commute_dequantize_scale, rewrite
from tests.onnx.graphs import assert_left_alone, floats, graph, numbers, rewritten

MANY, DIM = 30, 6
SIZES = (1, 9)
SCALES = {
    "zero": numbers(0),
    "ends": numbers(1),
    "two": numbers(2),
    "row": floats(DIM),
    "rows": np.tile(floats(DIM), (MANY, 1)),
    "column": floats(MANY, 1),
    "one": floats(1),
}


def model(body: str, user: str = f"batch, {DIM}, 1", gives: str = f"batch, {MANY}, 1", more: str = "") -> ir.Model:
    """Scores y of candidates x, which are scaled, for a user u."""
    text = f"g (float[batch, {MANY}, {DIM}] x, float[{user}] u) => (float[{gives}] y{more}) {{ {body} }}"
    return graph(text, **SCALES)


def requests(*user: int) -> list[list[np.ndarray]]:
    return [[floats(rows, MANY, DIM, seed=rows), floats(rows, *user, seed=rows + 1)] for rows in SIZES]


def scaled(made: ir.Model, value: str) -> bool:
    """Whether this input of the model is multiplied by a constant."""
    return any(
        node.op_type == "Mul" and any(v is not None and v.const_value is not None for v in node.inputs)
        for node, _ in next(v for v in made.graph.inputs if v.name == value).uses()
    )


@pytest.mark.parametrize(
    ("body", "user", "gives"),
    [
        ("m = Mul(x, row) y = MatMul(m, u)", (DIM, 1), f"batch, {MANY}, 1"),
        ("m = Mul(rows, x) y = MatMul(m, u)", (DIM, 1), f"batch, {MANY}, 1"),
        ("m = Mul(x, rows) t = Transpose<perm=[0,2,1]>(m) y = MatMul(u, t)", (2, DIM), f"batch, 2, {MANY}"),
        ("m = Mul(x, row) y = Mul(m, u)", (1, DIM), f"batch, {MANY}, {DIM}"),
        ("m = Mul(x, row) y = Mul(u, m)", (1, DIM), f"batch, {MANY}, {DIM}"),
    ],
)
def test_the_user_is_scaled_instead_of_the_candidates(body: str, user: tuple[int, ...], gives: str) -> None:
    before = model(body, ", ".join(["batch", *map(str, user)]), gives)
    made = rewritten(commute_dequantize_scale, before, requests(*user))
    assert scaled(made, "u")
    assert not scaled(made, "x")


@pytest.mark.parametrize(
    "left",
    [
        model("m = Mul(x, column) y = MatMul(m, u)"),
        model("m = Mul(x, one) y = MatMul(m, u)"),
        model("m = Mul(x, row) y = MatMul(m, u)", more=f", float[batch, {MANY}, {DIM}] m"),
        model("m = Mul(x, row) y = MatMul(u, m)", f"batch, 2, {MANY}", f"batch, 2, {DIM}"),
        model(
            "m = Mul(x, row) t = Transpose<perm=[2,1,0]>(m) y = MatMul(u, t)", f"{DIM}, 3, {MANY}", f"{DIM}, 3, batch"
        ),
        model("m = Mul(x, row) y = Add(m, u)", f"batch, 1, {DIM}", f"batch, {MANY}, {DIM}"),
        model("h = Slice(x, zero, ends, two) m = Mul(h, row) y = MatMul(m, u)"),
        model("h = ReduceMean(x, two) m = Mul(h, rows) y = MatMul(m, u)"),
        model("y = Mul(x, row)", gives=f"batch, {MANY}, {DIM}"),
    ],
    ids=[
        "by candidate",
        "one number",
        "read by others",
        "not summed over",
        "another transpose",
        "a sum",
        "one dimension for all",
        "one number for all",
        "no product",
    ],
)
def test_a_graph_that_does_not_fit_is_left_alone(left: ir.Model) -> None:
    assert_left_alone(commute_dequantize_scale, left)


def test_where_both_sides_are_scaled_one_is_moved_and_none_is_lost() -> None:
    both = model("m = Mul(x, row) n = Mul(u, row) y = Mul(m, n)", f"batch, 1, {DIM}", f"batch, {MANY}, {DIM}")
    rewritten(commute_dequantize_scale, both, requests(1, DIM))
    turned = model(
        "m = Mul(x, row) n = Mul(u, row) t = Transpose<perm=[0,2,1]>(n) y = MatMul(m, t)",
        f"batch, 2, {DIM}",
        f"batch, {MANY}, 2",
    )
    rewritten(commute_dequantize_scale, turned, requests(2, DIM))


def test_the_larger_side_is_spared() -> None:
    body = "m = Mul(x, row) y = MatMul(m, u)"
    one, (kept,) = rewrite(model(body), [commute_dequantize_scale], requests(DIM, 1), (1, 64))
    assert kept.accepted
    assert scaled(one, "u")
    many = model(body, f"batch, {DIM}, 900", f"batch, {MANY}, 900")
    _, (left,) = rewrite(many, [commute_dequantize_scale], requests(DIM, 900), (1, 64))
    assert not left.accepted
