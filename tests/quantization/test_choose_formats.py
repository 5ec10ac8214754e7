"""What is chosen, from times that the test makes up."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from recprune_export.quantization import Mode
from recprune_export.quantization.choose_formats import choose_formats
from recprune_export.quantization.quantization_plan import (
    FP16,
    FP32,
    INT4_BY_ROW,
    INT4_IN_BLOCKS,
    INT8_BY_DIMENSION,
    INT8_BY_ROW,
    INT8_DYNAMIC,
    INT8_STATIC,
    QuantizationPlan,
)
from recprune_export.quantization.timing import Stopwatch, Times
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


def plan(mode: Mode, stopwatch: Stopwatch, graph: ir.Model | None = None) -> QuantizationPlan:
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


def test_int4_that_is_not_smaller_is_int8() -> None:
    assert forms(plan("int4", favouring(INT8_BY_ROW)))["table"] == INT8_BY_ROW


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
