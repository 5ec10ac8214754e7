"""Masks of what a request leaves out."""

import numpy as np
import pytest

from recprune_export.onnx import make_in_memory_session
from recprune_export.onnx.optimizer import where_mask_to_product
from tests.onnx.graphs import assert_left_alone, graph, rewritten

L = 5
LOWEST = np.array(np.finfo(np.float32).min)
CONSTANTS = {
    "zero": np.array(0, np.float32), "low": LOWEST,
    "causal": np.tril(np.ones((L, L), bool)), "itself": np.eye(L, dtype=bool),
}  # fmt: skip
HEAD = f"g (bool[batch, 1, {L}] known) => (float[batch, {L}, {L}] m)"
KNOWN = [[np.random.default_rng(0).random((7, 1, L)) < 0.5], [np.zeros((1, 1, L), bool)]]


@pytest.mark.parametrize(
    "logic",
    [
        "a = And(causal, known)", "b = And(causal, known) a = Or(b, itself)", "b = Not(known) c = Or(b, itself) a = Not(c)",
        "b = And(known, causal) a = And(b, known)",
    ],
)  # fmt: skip
def test_the_mask_is_the_same_in_each_bit(logic: str) -> None:
    if "Not(c)" in logic:  # what is allowed then: known, and not itself
        logic = logic.replace("itself", "causal")
    model = graph(f"{HEAD} {{ {logic} m = Where(a, zero, low) }}", **CONSTANTS)
    found = rewritten(where_mask_to_product, model, KNOWN)
    assert all(value.const_value for node in found.graph if node.op_type == "Where" for value in node.inputs if value)
    for request in KNOWN:
        (before,), (after,) = (make_in_memory_session(each)(request) for each in (model, found))
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(
    ("logic", "change"),
    [
        ("a = And(causal, known)", {"low": np.array(-np.inf, np.float32)}),
        ("a = And(causal, known)", {"low": np.array(-1, np.float32)}),
        ("b = Not(known) a = And(causal, b)", {}),
        ("a = And(causal, causal)", {}),
    ],
    ids=["infinite", "not a mask", "a true value masks", "constant"],
)
def test_what_does_not_fit_is_left_alone(logic: str, change: dict[str, np.ndarray]) -> None:
    text = f"{HEAD} {{ {logic} m = Where(a, zero, low) }}"
    assert_left_alone(where_mask_to_product, graph(text, **(CONSTANTS | change)))


def test_two_values_of_the_request_are_left_alone() -> None:
    text = (
        f"g (bool[batch, 1, {L}] known, bool[batch, {L}, 1] other) => (float[batch, {L}, {L}] m)"
        " { a = And(known, other) m = Where(a, zero, low) }"
    )
    assert_left_alone(where_mask_to_product, graph(text, **CONSTANTS))
