"""What is chosen, from times that the test makes up."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest

from recprune_export.quantization import Mode
from recprune_export.quantization.choose_formats import choose_formats
from recprune_export.quantization.quantization_plan import (
    FP16,
    FP32,
    INT2_BY_ROW,
    INT4_BY_ROW,
    INT4_IN_BLOCKS,
    INT4_STORED,
    INT8_BY_DIMENSION,
    INT8_BY_ROW,
    INT8_DYNAMIC,
    INT8_STATIC,
    INT8_STORED,
    QuantizationPlan,
)
from recprune_export.quantization.timing import Stopwatch, Times
from recprune_export.stored_bits import TABLE_BITS, StoredBits, count_weight_bytes
from recprune_export.validation import RequestCycles
from tests.onnx.graphs import floats, graph
from tests.quantization.times import favouring

TEXT = """g (int64[batch, 2] ids) => (float[batch, 1] y) {
    e = Gather(table, ids)
    x = Reshape(e, shape)
    a = MatMul(x, first)
    h = Relu(a)
    y = MatMul(h, second)
}"""


def model(table: np.ndarray | None = None) -> ir.Model:
    table = floats(40, 4) if table is None else table
    shape = np.array([-1, 8], dtype=np.int64)
    return graph(TEXT, table=table, shape=shape, first=floats(8, 6), second=floats(6, 1, seed=1))


def requests(*batches: int) -> RequestCycles:
    rng = np.random.default_rng(0)
    return {batch: [{"ids": rng.integers(0, 40, size=(batch, 2))} for _ in range(3)] for batch in batches}


def plan(mode: Mode | StoredBits, stopwatch: Stopwatch, graph: ir.Model | None = None) -> QuantizationPlan:
    return choose_formats(graph or model(), mode, requests(1, 16), stopwatch, lambda text: None)


def forms(plan: QuantizationPlan) -> dict[str, str]:
    return {choice.name: choice.form for choice in plan.choices}


def test_the_faster_form_of_a_layer_wins() -> None:
    for form in (INT8_STATIC, INT8_DYNAMIC):
        assert forms(plan("int8", favouring(form, INT8_BY_ROW)))["first"] == form


def test_of_equally_fast_forms_static_wins() -> None:
    assert forms(plan("int8", favouring(INT8_STATIC, INT8_DYNAMIC)))["first"] == INT8_STATIC


def test_what_is_slower_stays_in_fp32_and_says_so() -> None:
    found = plan("int8", favouring(INT8_BY_ROW))
    assert {choice.form for choice in found.layers} == {FP32}
    assert all("not clearly faster" in choice.reason and choice.speedups for choice in found.layers)


def test_layers_that_cost_one_batch_size_too_much_are_left_out() -> None:
    kept = forms(plan("int8", favouring(INT8_STATIC, INT8_BY_ROW, slow={"first": 0.4})))
    assert kept["first"] == INT8_STATIC  # what the other gains at batch 1 is more
    kept = forms(plan("int8", favouring(INT8_STATIC, INT8_BY_ROW, slow={"first": 0.6})))
    assert kept == {"table": INT8_BY_ROW, "first": FP32, "second": INT8_STATIC}


def test_fp16_is_for_tables_alone() -> None:
    assert forms(plan("fp16", favouring(FP16, INT8_STATIC))) == {"table": FP16}


def test_a_scale_for_each_dimension_only_where_it_is_near_enough() -> None:
    even = np.random.default_rng(0).uniform(-1, 1, size=(40, 4)).astype(np.float32)
    assert forms(plan("int8", favouring(INT8_BY_DIMENSION), model(even)))["table"] == INT8_BY_DIMENSION
    even[0] = 40.0  # one row for which all others are rounded coarsely
    assert forms(plan("int8", favouring(INT8_BY_DIMENSION), model(even)))["table"] == INT8_BY_ROW


def wide() -> ir.Model:
    text = "g (int64[batch, 2] ids) => (float[batch, 2, 16] y) { y = Gather(table, ids) }"
    return graph(text, table=floats(40, 16))


def test_the_faster_form_of_int4_wins() -> None:
    for form in (INT4_BY_ROW, INT4_IN_BLOCKS):
        assert forms(plan("int4", favouring(form), wide()))["table"] == form


def lookups(rows: int, dimensions: int) -> ir.Model:
    text = f"g (int64[batch, 2] ids) => (float[batch, 2, {dimensions}] y) {{ y = Gather(table, ids) }}"
    return graph(text, table=floats(rows, dimensions))


def test_int4_that_is_not_smaller_is_int8() -> None:
    stopwatch = favouring(INT8_BY_ROW, INT4_BY_ROW)
    requests: RequestCycles = {4: [{"ids": np.arange(8).reshape(4, 2)}]}
    for dimensions, form in ((2, INT4_BY_ROW), (1, INT8_BY_ROW)):  # with one dimension the scales outweigh the bits
        found = choose_formats(lookups(400, dimensions), "int4", requests, stopwatch, lambda text: None)
        assert forms(found)["table"] == form


@pytest.mark.parametrize("mode", ["fp16", "int8", "int4"])
@pytest.mark.parametrize("rows", [40, 7000])
def test_a_table_never_becomes_larger(mode: Mode, rows: int) -> None:
    for dimensions in (1, 2, 3):
        (choice,) = plan(mode, favouring(), lookups(rows, dimensions)).tables
        assert choice.bytes[1] < choice.bytes[0] == 4 * rows * dimensions


PLANNED_BITS = StoredBits({"table": 4}, {"second": 32}, other_layers=8)


def test_planned_bits_are_those_of_the_choices() -> None:
    found = plan(PLANNED_BITS, favouring(INT4_BY_ROW))
    assert forms(found) == {"table": INT4_BY_ROW, "first": INT8_STORED, "second": FP32}
    assert forms(plan(PLANNED_BITS, favouring(INT8_DYNAMIC)))["first"] == INT8_DYNAMIC
    in_4_bits = forms(plan(StoredBits(other_layers=4), favouring()))
    assert in_4_bits == {"table": FP32, "first": INT4_STORED, "second": INT4_STORED}


def test_a_planned_layer_that_costs_one_batch_size_too_much_is_stored() -> None:
    stopwatch = favouring(INT8_STATIC, INT8_BY_ROW, slow={"first": 0.6})
    assert forms(plan(StoredBits({"table": 8}, other_layers=8), stopwatch))["first"] == INT8_STORED


@pytest.mark.parametrize("bits", TABLE_BITS)
@pytest.mark.parametrize("dimensions", [1, 3, 8, 17])
def test_a_planned_table_takes_no_more_than_its_bytes(bits: int, dimensions: int) -> None:
    for favourite in (INT8_BY_ROW, INT8_BY_DIMENSION, INT4_BY_ROW, INT4_IN_BLOCKS):
        (choice,) = plan(StoredBits({"table": bits}), favouring(favourite), lookups(700, dimensions)).tables
        assert choice.bytes[1] <= count_weight_bytes((700, dimensions), bits, is_table=True)


def test_small_tables_have_their_planned_bits_as_well() -> None:
    text = """g (int64[batch] ids) => (float[batch, 4] y, float[batch, 4] z) {
        y = Gather(large, ids)
        z = Gather(small, ids)
    }"""
    both = graph(text, large=floats(7000, 4), small=floats(40, 4))
    asked: RequestCycles = {4: [{"ids": np.arange(4)}]}
    modes: tuple[tuple[Mode | StoredBits, str], ...] = (
        ("int8", FP32),
        (StoredBits({"large": 8, "small": 2}), INT2_BY_ROW),
    )
    for mode, form in modes:
        found = choose_formats(both, mode, asked, favouring(INT8_BY_ROW), lambda text: None)
        assert forms(found)["small"] == form


def test_tables_and_the_whole_are_timed_on_all_requests_and_layers_on_one() -> None:
    timed: dict[str, RequestCycles] = {}
    favourite = favouring(INT8_STATIC, INT8_BY_ROW)

    def stopwatch(part: ir.Model, name: str | tuple[str, ...], forms: Sequence[str], requests: RequestCycles) -> Times:
        timed[name] = requests
        return favourite(part, name, forms, requests)

    asked = requests(1, 16)
    choose_formats(model(), "int8", asked, stopwatch, lambda text: None)
    for name in ("", "table"):
        for batch, rotation in asked.items():
            for wanted, given in zip(rotation, timed[name][batch], strict=True):
                assert given["ids"].tolist() == wanted["ids"].tolist()
    for name in ("first", "second"):
        assert [len(rotation) for rotation in timed[name].values()] == [1, 1]
        assert [len(values) for rotation in timed[name].values() for values in rotation[0].values()] == [1, 16]


def test_the_same_times_give_the_same_plan() -> None:
    stopwatch = favouring(INT8_STATIC, INT8_BY_ROW, slow={"first": 0.6})
    assert plan("int8", stopwatch) == plan("int8", stopwatch)


def test_numbers_beyond_fp16_stay() -> None:
    table = floats(40, 4)
    table[0, 0] = 1e5
    found = plan("fp16", favouring(FP16), model(table))
    assert found.tables[0].form == FP32
    assert "fp16 cannot" in found.tables[0].reason
