"""Golden rows that JSON cannot represent are left out, and the others are answered alone."""

import numpy as np

from recprune_export.bundle.servers.finite_rows import take_finite_rows
from recprune_export.program import BATCH, Input, Output, Signature
from recprune_export.program.signature import Jagged

SIGNATURE = Signature(
    (Input("x", "float32", (BATCH, 2)), Input("user", "float32", (1,), shared=True)),
    (Output("y", "float32", (BATCH,)),),
)
Arrays = dict[str, np.ndarray]


def centered(request: Arrays) -> Arrays:
    """Rows of a request depend on each other, so the answer to fewer rows is another one."""
    sums = request["x"].sum(1)
    return {"y": np.log(sums - sums.mean() + request["user"])}


def test_rows_that_are_not_finite_are_left_out() -> None:
    x = np.array([[1, 2], [np.nan, 1], [3, 4], [np.inf, 0], [5, 5]], dtype=np.float32)
    request = {"x": x, "user": np.full(1, 9, dtype=np.float32)}
    response = {"y": np.array([0.0, 1.0, -np.inf, 2.0, 3.0], dtype=np.float32)}
    taken = take_finite_rows(SIGNATURE, centered, request, response)
    assert taken is not None
    arrays, answer = taken
    assert arrays["x"].tolist() == [[1, 2], [5, 5]]
    np.testing.assert_array_equal(answer["y"], centered({**request, "x": x[[0, 4]]})["y"])
    assert arrays["user"].tolist() == [9]


def test_finite_rows_keep_the_golden_answer() -> None:
    request = {"x": np.ones((3, 2), dtype=np.float32), "user": np.ones(1, dtype=np.float32)}
    response = {"y": np.array([7.0, 8.0, 9.0], dtype=np.float32)}
    taken = take_finite_rows(SIGNATURE, centered, request, response)
    assert taken is not None
    assert taken[1] is response


def test_there_is_no_sample_where_nothing_is_finite_or_a_shared_value_is_not() -> None:
    request = {"x": np.full((3, 2), np.nan, dtype=np.float32), "user": np.ones(1, dtype=np.float32)}
    finite = {"x": np.ones((3, 2), dtype=np.float32), "user": np.full(1, np.nan, dtype=np.float32)}
    response = {"y": np.ones(3, dtype=np.float32)}
    assert take_finite_rows(SIGNATURE, centered, request, response) is None
    assert take_finite_rows(SIGNATURE, centered, finite, response) is None


def test_absent_elements_of_packed_rows_are_no_values() -> None:
    ids = Jagged((0, 2), "ids", "values", "lengths")
    signature = Signature(
        (
            Input("ids", "int64", (BATCH, 2), ((0, 9),), jagged=ids),
            Input("weights", "float32", (BATCH, 2), jagged=Jagged((0, 2), "ids", "weights", "lengths")),
        ),
        (Output("y", "float32", (BATCH,)),),
    )
    request = {
        "ids": np.array([[1, -1], [2, 3], [4, -1]]),
        "weights": np.array([[0.5, np.nan], [1.0, np.inf], [2.0, np.nan]], dtype=np.float32),
    }
    taken = take_finite_rows(signature, lambda r: {"y": np.ones(len(r["ids"]))}, request, {"y": np.ones(3)})
    assert taken is not None
    assert {name: values.tolist() for name, values in taken[0].items()} == {
        "values": [1, 4], "lengths": [1, 1], "weights": [0.5, 2.0],
    }  # fmt: skip
