"""Guards behind the inputs: ids out of range and infinite numbers are read as the rules on arrays say, in every form."""

from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from recprune_export.onnx import fill_shapes, make_in_memory_session
from recprune_export.onnx.input_guards import guard_inputs
from recprune_export.onnx.optimizer import fuse_tables
from recprune_export.program import BATCH, Input, Signature
from recprune_export.program.requests.input_rules import apply_input_rules, find_bad_ids, with_bad_ids
from tests.onnx.graphs import graph, operators

INTEGERS = ("int64", "int32", "int16", "int8", "uint8")
EXTREMES = (-(2**63), -(2**31), -3, -2, -1, 0, 1, 2, 7, 8, 9, 127, 255, 256, 2**31 - 1, 2**31, 2**63 - 1)


def identity(spec: Input) -> ir.Model:
    """Return a graph that answers its input."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    shape = [size if isinstance(size, int) else "batch" for size in spec.shape]
    made = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "identity",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, shape)],
    )
    return ir.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def ask(spec: Input, values: np.ndarray) -> np.ndarray:
    """Return what the guard makes of `values`."""
    model = identity(spec)
    guard_inputs(model, [spec])
    onnx.checker.check_model(ir.to_proto(model))
    return np.asarray(make_in_memory_session(model)([values])[0])


def within(dtype: str, numbers: list[int]) -> np.ndarray:
    bounds = np.iinfo(dtype)
    return np.array([min(max(n, bounds.min), bounds.max) for n in numbers], dtype=dtype)


@settings(max_examples=30)
@given(st.data())
def test_ids_become_what_the_rule_says(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(INTEGERS))
    largest = np.iinfo(dtype).max
    columns = data.draw(st.integers(1, 3))
    ranges = [(low, low + data.draw(st.integers(0, 9))) for low in data.draw(st.lists(st.sampled_from([0, 0, 1, 2]), min_size=columns, max_size=columns))]  # fmt: skip  # noqa: E501
    if data.draw(st.booleans()):
        ranges[-1] = (ranges[-1][0], int(largest))  # the table is as long as the dtype allows
    bad = tuple(data.draw(st.integers(low, min(high, low + 9))) for low, high in ranges)
    spec = Input("x", dtype, (BATCH, columns), tuple(ranges), bad_ids=bad)
    numbers = data.draw(st.lists(st.sampled_from(EXTREMES), min_size=columns, max_size=4 * columns))
    values = within(dtype, numbers[: len(numbers) // columns * columns]).reshape(-1, columns)
    guarded = ask(spec, values)
    np.testing.assert_array_equal(guarded, apply_input_rules({"x": values}, Signature((spec,), ()))["x"])
    inside = ~find_bad_ids(spec, values)
    np.testing.assert_array_equal(guarded[inside], values[inside])
    np.testing.assert_array_equal(guarded[~inside], np.broadcast_to(bad, values.shape)[~inside])


def test_numbers_are_clipped_and_nan_stays() -> None:
    spec = Input("x", "float32", (BATCH, 3), number_limit=100.0)
    values = np.array([[np.nan, np.inf, -np.inf], [99.5, -1e30, 0.1]], dtype=np.float32)
    np.testing.assert_array_equal(ask(spec, values), np.array([[np.nan, 100, -100], [99.5, -100, 0.1]], np.float32))


def test_ids_beside_numbers_in_a_matrix_of_floats() -> None:
    spec = Input("x", "float32", (BATCH, 3), ((0, 4), None, (2, 3)), bad_ids=(0, None, 2), number_limit=1e4)
    values = np.array([[-1, np.nan, 1], [5, np.inf, np.nan], [np.nan, -2.5, 3], [4, 0.1, np.inf]], dtype=np.float32)
    expected = np.array([[0, np.nan, 2], [0, 1e4, 2], [0, -2.5, 3], [4, 0.1, 2]], dtype=np.float32)
    np.testing.assert_array_equal(ask(spec, values), expected)
    np.testing.assert_array_equal(apply_input_rules({"x": values}, Signature((spec,), ()))["x"], expected)


@pytest.mark.parametrize("dtype", ["int64", "int32"])
@pytest.mark.parametrize("low", [0, 1])
def test_refused_ids_become_too_large_for_every_table(dtype: str, low: int) -> None:
    spec = Input("x", dtype, (BATCH, 2), ((low, 4), (low, 9)), bad_ids=("error", "error"))
    smallest = np.iinfo(dtype).min
    values = np.array([[low, 9], [-1, low - 1], [smallest, smallest + 3]], dtype=dtype)
    guarded = ask(spec, values)
    assert guarded[0].tolist() == [low, 9]
    too_low = values < low
    assert (guarded[too_low] == np.iinfo(dtype).max).all()
    np.testing.assert_array_equal(guarded[~too_low], values[~too_low])  # a lookup refuses those that are too large


def test_without_rules_nothing_changes() -> None:
    spec = Input("x", "int64", (BATCH,), ((0, 4),))
    model = identity(spec)
    assert guard_inputs(model, [spec]) == 0
    assert operators(model) == {"Identity": 1}


FIELDS = """
    fields (int64[batch] a, int64[batch] b, int64[batch] c, int64[batch] d) => (float[batch, 8] y) {
        e = Gather <axis = 0> (t0, a)
        f = Gather <axis = 0> (t1, b)
        g = Gather <axis = 0> (t2, c)
        h = Gather <axis = 0> (t3, d)
        y = Concat <axis = 1> (e, f, g, h)
    }
"""
ROWS = (3, 5, 7, 4)
TABLES = {f"t{k}": np.random.default_rng(k).normal(size=(rows, 2)).astype(np.float32) for k, rows in enumerate(ROWS)}
SPECS = tuple(Input(name, "int64", (BATCH,), ((0, rows - 1),)) for name, rows in zip("abcd", ROWS, strict=True))


@pytest.mark.parametrize("rule", ["unknown", "error"])
def test_fused_tables_keep_the_rule(rule: str) -> None:
    signature = with_bad_ids(Signature(SPECS, ()), rule)
    model = graph(FIELDS, **TABLES)
    plain = make_in_memory_session(model.clone())
    guard_inputs(model, signature.inputs)
    fill_shapes(model)
    assert fuse_tables(model) == 1
    run = make_in_memory_session(model)
    rng = np.random.default_rng(0)
    bad = {s.name: rng.choice([-(2**63), -5, -1, 0, 1, 2, 3, 7, 2**40], 50) for s in signature.inputs}
    if rule == "unknown":
        assert operators(model)["Clip"] == 1
        expected = plain(list(apply_input_rules(bad, signature).values()))
        np.testing.assert_array_equal(run(list(bad.values()))[0], expected[0])
        return
    valid = [np.zeros(2, dtype=np.int64) for _ in SPECS]
    np.testing.assert_array_equal(run(valid)[0], plain(valid)[0])
    for position, rows in enumerate(ROWS):
        for wrong in (-1, rows):
            request = [values.copy() for values in valid]
            request[position][1] = wrong
            with pytest.raises(Exception, match="out of data bounds"):
                run(request)


def test_an_earlier_choice_of_the_unknown_id_stays() -> None:
    tags = Input("tags", "int64", (BATCH, 2), ((0, 9),), bad_ids=(1,))
    assert with_bad_ids(Signature((tags,), ()), "unknown").inputs[0].bad_ids == (1,)
    assert with_bad_ids(Signature((replace(tags, bad_ids=(12,)),), ()), "unknown").inputs[0].bad_ids == (0,)
