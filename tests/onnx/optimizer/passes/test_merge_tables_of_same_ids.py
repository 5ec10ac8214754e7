"""Tables that the same ids look up are one, and others stay two."""

import numpy as np
import pytest

from recprune_export.onnx import count_weights, rewrite
from recprune_export.onnx.optimizer import merge_tables_of_same_ids
from tests.onnx.graphs import assert_left_alone, floats, graph, operators, rewritten

TEXT = (
    "g (int64[batch, 3] ids) => (float[batch, 3, 4] y, float[batch, 3, 1] z)"
    " { y = Gather(t, ids) a = Gather(u, ids) z = Relu(a) }"
)
IDS = [[np.array([[0, 5, 8], [1, 1, 2]])], [np.array([[7, 2, 0]])]]


def test_embeddings_and_weights_of_first_order_are_looked_up_at_once() -> None:
    model = graph(TEXT, t=floats(9, 4), u=floats(9, 1))
    found = rewritten(merge_tables_of_same_ids, model, IDS)
    assert operators(found) == {"Gather": 1, "Split": 1, "Relu": 1}
    assert count_weights(found) == count_weights(model)
    assert [value.name for value in found.graph.outputs] == ["y", "z"]


def test_three_tables_are_one() -> None:
    text = (
        "g (int64[batch] ids) => (float[batch, 2] x, float[batch, 4] y, float[batch, 1] z)"
        " { x = Gather(s, ids) y = Gather(t, ids) z = Gather(u, ids) }"
    )
    model = graph(text, s=floats(9, 2), t=floats(9, 4, seed=1), u=floats(9, 1, seed=2))
    assert operators(rewritten(merge_tables_of_same_ids, model, [[np.array([0, 8, 3])]])) == {"Gather": 1, "Split": 1}


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("y = Gather(t, ids) z = Gather(u, other)", {"u": floats(9, 4)}),
        ("y = Gather(t, ids) z = Gather(u, ids)", {"u": floats(10, 4)}),
        ("y = Gather(t, ids) z = Gather(t, ids)", {}),
        ("y = Gather(t, ids) a = Gather(u, ids) b = Transpose(u) z = MatMul(a, b)", {"u": floats(9, 9)}),
    ],
    ids=["other ids", "other rows", "the same table", "a table that is multiplied as well"],
)
def test_what_does_not_fit_is_left_alone(text: str, weights: dict[str, np.ndarray]) -> None:
    inputs = "int64[batch] ids, int64[batch] other"
    model = graph(f"g ({inputs}) => (float[batch, 4] y, float[batch, n] z) {{ {text} }}", t=floats(9, 4), **weights)
    assert_left_alone(merge_tables_of_same_ids, model)


def test_large_tables_cost_less_as_one() -> None:
    text = (
        "g (int64[batch, 8] ids) => (float[batch, 8, 4] y, float[batch, 8, 1] z)"
        " { y = Gather(t, ids) z = Gather(u, ids) }"
    )
    model = graph(text, t=floats(1 << 18, 4), u=floats(1 << 18, 1))
    _, (report,) = rewrite(model, (merge_tables_of_same_ids,), [[np.arange(16).reshape(2, 8)]], (1, 256))
    assert report.accepted
