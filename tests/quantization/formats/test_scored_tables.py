"""Tables that are multiplied as well as looked up: each form in a graph, what is left alone, and what is chosen."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from recprune_export.onnx import SessionOptions, count, count_weights, infer_shapes, make_session, run, strip_weights
from recprune_export.quantization import Mode, QualityLoss, quantize
from recprune_export.quantization.apply_quantization import quantize_weights
from recprune_export.quantization.candidates import find_candidates
from recprune_export.quantization.choose_formats import choose_formats
from recprune_export.quantization.formats import quantized_tables
from recprune_export.quantization.observers import Arrays, make_graph_function, observe
from recprune_export.quantization.quantization_plan import (
    FP16,
    FP32,
    INT2_BY_ROW,
    INT3_BY_ROW,
    INT4_BY_ROW,
    INT4_BY_ROW_DYNAMIC,
    INT4_BY_ROW_STATIC,
    INT8_BY_ROW,
    INT8_BY_ROW_DYNAMIC,
    INT8_BY_ROW_STATIC,
    INT8_STATIC,
    WeightChoice,
)
from recprune_export.quantization.timing import Stopwatch, Times, extract_subgraph, measure_times
from recprune_export.stored_bits import StoredBits, count_weight_bytes, fit_scales, round_rows
from recprune_export.validation import RequestCycles
from tests.onnx.graphs import floats, graph, numbers, operators
from tests.quantization.times import favouring

ROWS, DIMENSIONS = 300, 12
GEMM = """g (int64[batch, 3] ids, float[batch, 12] x) => (float[batch, 3, 12] e, float[batch, 300] y) {
    e = Gather(table, ids)
    y = Gemm<transB=1>(x, table, b)
}"""
TRANSPOSED = """g (int64[batch, 3] ids, float[batch, 12] x) => (float[batch, 3, 12] e, float[batch, 300] y) {
    e = Gather(table, ids)
    t = Transpose<perm=[1, 0]>(table)
    y = MatMul(x, t)
}"""
OF_LISTS = """g (int64[batch, 3] ids, float[batch, 3, 12] x) => (float[batch, 3, 12] e, float[batch, 3, 300] y) {
    e = Gather(table, ids)
    t = Transpose(table)
    p = MatMul(x, t)
    y = Add(p, b)
}"""
OF_LOOKUPS = """g (int64[batch] ids) => (float[batch, 300] y) {
    e = Gather(table, ids)
    t = Transpose(table)
    y = MatMul(e, t)
}"""
IN_FLOATS = {FP16: 2**-10, INT8_BY_ROW: 1e-6, INT4_BY_ROW: 1e-6, INT3_BY_ROW: 1e-6, INT2_BY_ROW: 1e-6}
IN_INTEGERS = {INT8_BY_ROW_STATIC: 7, INT8_BY_ROW_DYNAMIC: 7, INT4_BY_ROW_STATIC: 4, INT4_BY_ROW_DYNAMIC: 4}
SHARED = 700  # bytes of constants that all stored rows share
FORMS = [*IN_FLOATS, *IN_INTEGERS]


def table() -> np.ndarray:
    numbers = floats(ROWS, DIMENSIONS)
    numbers[0], numbers[:, 3] = 0.0, 0.0
    return numbers


def model(text: str) -> ir.Model:
    return graph(text, table=table(), **({"b": floats(ROWS, seed=4)} if "b)" in text else {}))


def request(text: str, batch: int = 40) -> Arrays:
    ids = np.random.default_rng(1).integers(0, ROWS, size=(batch, 3))
    if text is OF_LOOKUPS:
        return {"ids": ids[:, 0]}
    return {
        "ids": ids,
        "x": floats(batch, 3, DIMENSIONS, seed=2) if text is OF_LISTS else floats(batch, DIMENSIONS, seed=2),
    }


def in_form(text: str, form: str) -> ir.Model:
    seen = observe(model(text), ["e" if text is OF_LOOKUPS else "x"], [request(text)])
    return quantize_weights(model(text), {"table": form}, seen)


def stored(form: str) -> np.ndarray:
    """The numbers that the file of a form stands for."""
    if form == FP16:
        return table().astype(np.float16).astype(np.float32)
    bits = IN_INTEGERS.get(form) or quantized_tables.ROW_BITS[form]
    return np.asarray(round_rows(table(), fit_scales(table(), bits), bits))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("text", [GEMM, TRANSPOSED, OF_LISTS])
def test_lookups_and_products_read_the_same_numbers(text: str, form: str) -> None:
    asked = request(text)
    found = make_graph_function(in_form(text, form))(asked)
    assert np.allclose(found["e"], stored(form)[asked["ids"]], rtol=1e-6, atol=0)
    wanted = asked["x"] @ stored(form).T + (0.0 if text is TRANSPOSED else floats(ROWS, seed=4))
    off = np.abs(found["y"] - wanted).max() / np.abs(wanted).max()
    assert off < (1e-5 if form in IN_FLOATS else 0.01)
    assert off > 0 or form in IN_FLOATS


@pytest.mark.parametrize("form", FORMS)
def test_the_file_holds_the_table_once(form: str) -> None:
    for text in (GEMM, TRANSPOSED, OF_LISTS):
        result = in_form(text, form)
        arrays = [value.const_value for value in result.graph.initializers.values() if value.const_value is not None]
        large = [array for array in arrays if array.size > ROWS]
        assert len(large) == 1
        assert large[0].dtype != ir.DataType.FLOAT
        bias = 0 if text is TRANSPOSED else 4 * ROWS
        held = sum(array.nbytes for array in arrays) - bias
        assert (
            abs(held - quantized_tables.count_table_bytes(find_candidates(model(text)).tables["table"], form)[1])
            < SHARED
        )


@pytest.mark.parametrize("form", FORMS)
def test_counts_are_those_of_the_table_in_fp32(form: str) -> None:
    before, after = count_weights(model(GEMM)), count_weights(in_form(GEMM, form))
    assert after.tables.parameters == before.tables.parameters == ROWS * DIMENSIONS
    if form in (INT3_BY_ROW, INT2_BY_ROW):  # in which only a row of zeros is one of zeros
        assert after.tables.nonzero == (ROWS - 1) * DIMENSIONS
    else:
        assert 0.7 * before.tables.nonzero < after.tables.nonzero <= before.tables.nonzero
    assert after.rest == before.rest


@pytest.mark.parametrize("form", FORMS)
def test_operations_and_shapes_are_known(form: str, tmp_path: Path) -> None:
    result = in_form(OF_LISTS, form)
    ir.save(result, tmp_path / "model.onnx")
    assert count(tmp_path / "model.onnx").operations == 3 * ROWS * DIMENSIONS
    assert infer_shapes(strip_weights(result).model, 7)["y"] == (7, 3, ROWS)


def test_answers_of_static_products_do_not_depend_on_other_rows() -> None:
    for form in (INT8_BY_ROW_STATIC, INT4_BY_ROW_STATIC):
        answer, asked = make_graph_function(in_form(GEMM, form)), request(GEMM)
        alone = answer({name: values[:1] for name, values in asked.items()})["y"]
        asked["x"][1] *= 100.0
        assert np.allclose(answer(asked)["y"][0], alone[0], rtol=1e-6)


def test_products_of_integers_are_named_kernels() -> None:
    assert operators(in_form(GEMM, INT8_BY_ROW_STATIC))["MatMulIntegerToFloat"] == 1
    assert operators(in_form(GEMM, INT8_BY_ROW_DYNAMIC))["MatMulInteger"] == 1
    assert operators(in_form(GEMM, INT8_BY_ROW))["MatMul"] == 1


@pytest.mark.parametrize("form", [INT8_BY_ROW, INT8_BY_ROW_STATIC, INT4_BY_ROW_DYNAMIC])
def test_scores_of_what_was_looked_up(form: str) -> None:
    asked = request(OF_LOOKUPS)
    found = make_graph_function(in_form(OF_LOOKUPS, form))(asked)["y"]
    wanted = stored(form)[asked["ids"]] @ stored(form).T
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()


LOOKED_UP = "e = Gather(table, ids)"
NOT_A_TABLE = {
    "by columns": "y = MatMul(w, table)",
    "untransposed": "y = Gemm(w, table)",
    "elementwise": "y = Mul(table, two)",
    "transposed and added": "t = Transpose(table) y = Add(t, two)",
    "product and sum": "t = Transpose(table) p = MatMul(x, t) s = ReduceSum<keepdims=0>(table) y = Add(p, s)",
    "scaled": "y = Gemm<transB=1, alpha=0.5>(x, table)",
    "bias of the request": "y = Gemm<transB=1>(x, table, x)",
    "ids of the file": "y = Gather(table, some)",
}


@pytest.mark.parametrize("case", NOT_A_TABLE)
def test_what_is_read_otherwise_is_left(case: str) -> None:
    inputs = "int64[batch] ids, float[batch, 12] x, float[batch, 300] w"
    text = f"g ({inputs}) => (float[batch, 12] e, float[m, n] y) {{ {LOOKED_UP} {NOT_A_TABLE[case]} }}"
    read = graph(text, table=table(), two=np.array(2.0, dtype=np.float32), some=numbers(1, 2))
    found = find_candidates(read)
    assert not found.tables
    (left,) = (each for each in found.excluded if each.is_table)
    assert left.reason == "it is read by other operators than row lookups and products with all rows"


def test_a_table_that_the_model_returns_is_left() -> None:
    for text in (OF_LOOKUPS, OF_LOOKUPS.replace("y)", "y, float[12, 300] t)")):
        assert bool(find_candidates(model(text)).tables) is (text is OF_LOOKUPS)


def test_its_product_is_no_layer() -> None:
    found = find_candidates(model(GEMM))
    assert list(found.tables) == ["table"]
    assert not found.layers
    assert not found.excluded


def test_the_part_that_is_timed_has_both() -> None:
    model_ = model(TRANSPOSED)
    forms = (INT8_BY_ROW, INT8_BY_ROW_STATIC)
    part = extract_subgraph(model_, model_.graph.inputs, model_.graph.outputs)
    times = measure_times(part, "table", forms, {4: [request(TRANSPOSED, 4)]})
    assert set(times) == {FP32, *forms}
    assert all(milliseconds > 0 for by_batch in times.values() for milliseconds in by_batch.values())


def chosen(mode: Mode, stopwatch: Stopwatch, text: str = TRANSPOSED) -> WeightChoice:
    found = choose_formats(
        model(text), mode, {batch: [request(text, batch)] for batch in (1, 16)}, stopwatch, lambda _: None
    )
    (choice,) = found.tables
    assert not found.layers
    return choice


@pytest.mark.parametrize("text", [GEMM, TRANSPOSED, OF_LISTS, OF_LOOKUPS])
def test_the_fastest_product_wins(text: str) -> None:
    for form in (INT8_BY_ROW, INT8_BY_ROW_STATIC, INT8_BY_ROW_DYNAMIC):
        assert chosen("int8", favouring(form), text).form == form
    for form in (INT4_BY_ROW, INT4_BY_ROW_STATIC, INT4_BY_ROW_DYNAMIC):
        assert chosen("int4", favouring(form), text).form == form
    assert chosen("fp16", favouring(INT8_BY_ROW_STATIC), text).form == FP16


def test_of_equally_fast_products_the_most_exact_wins() -> None:
    assert chosen("int8", favouring(INT8_BY_ROW, INT8_BY_ROW_STATIC, INT8_BY_ROW_DYNAMIC)).form == INT8_BY_ROW
    assert chosen("int8", favouring(INT8_BY_ROW_STATIC, INT8_BY_ROW_DYNAMIC)).form == INT8_BY_ROW_STATIC


def test_it_gets_smaller_even_where_it_gets_slower() -> None:
    choice = chosen("int8", favouring())
    assert choice.form == INT8_BY_ROW
    assert choice.bytes == (4 * ROWS * DIMENSIONS, ROWS * (DIMENSIONS + 1))
    assert "0.50 times as fast" in choice.reason


def test_a_product_that_costs_one_batch_size_too_much_is_one_of_floats() -> None:
    choice = chosen("int8", slower_at_1)
    assert choice.form == INT8_BY_ROW
    assert "slower at batch 1" in choice.reason


def slower_at_1(part: ir.Model, name: str, forms: Sequence[str], requests: RequestCycles) -> Times:
    times = {form: {1: 1.1, 16: 0.1} for form in forms}
    faster = {form: {1: 0.8, 16: 0.8} for form in forms} if name == "w" else times
    return faster | {form: dict.fromkeys(requests, 1.0) for form in (FP32, INT8_BY_ROW)}


def test_what_a_layer_gains_pays_for_a_product() -> None:
    text = TRANSPOSED.replace("MatMul(x, t)", "MatMul(h, t)").replace("e = ", "h = MatMul(x, w) e = ")
    read = graph(text, table=table(), w=floats(DIMENSIONS, DIMENSIONS))
    asked = {batch: [request(TRANSPOSED, batch)] for batch in (1, 16)}
    found = choose_formats(read, "int8", asked, slower_at_1, lambda _: None)
    assert found.forms() == {"w": INT8_STATIC, "table": INT8_BY_ROW_STATIC}


@pytest.mark.parametrize("refused", range(5))
def test_the_gate_gives_it_more_bits_one_step_after_the_other(refused: int, tmp_path: Path) -> None:
    source, asked = tmp_path / "model.onnx", request(TRANSPOSED)
    ir.save(model(TRANSPOSED), source)
    losses = iter([1.0] * refused + [0.0])
    found = quantize(
        source, tmp_path / "q.onnx", "int4", [asked], {40: [asked]}, lambda before, after: QualityLoss("auc", next(losses), 0.5),
        stopwatch=favouring(INT4_BY_ROW_STATIC),
    )  # fmt: skip
    (choice,) = found.plan.tables
    assert choice.form == (INT4_BY_ROW_STATIC, INT4_BY_ROW, INT8_BY_ROW, FP16, FP32)[refused]
    assert len(found.relaxations) == refused
    assert found.bytes[1] < found.bytes[0] or choice.form == FP32


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_planned_bits_hold_whatever_they_lose(bits: int, tmp_path: Path) -> None:
    source, asked = tmp_path / "model.onnx", request(TRANSPOSED)
    ir.save(model(TRANSPOSED), source)
    planned = StoredBits({"table": bits})
    found = quantize(
        source, tmp_path / "q.onnx", planned, [asked], {40: [asked]}, lambda before, after: QualityLoss("auc", 1.0, 0.5),
        stopwatch=favouring(),
    )  # fmt: skip
    (choice,) = found.plan.tables
    assert quantized_tables.ROW_BITS[choice.form] == bits
    assert found.relaxations == ()
    assert (found.loss.lost, found.loss.passed) == (1.0, False)
    assert choice.error is not None
    limit = count_weight_bytes((ROWS, DIMENSIONS), bits, is_table=True)
    assert choice.bytes[1] == limit
    stored = sum(len(tensor.raw_data) for tensor in onnx.load(found.path).graph.initializer)
    assert limit <= stored < limit + SHARED
    for optimization in ("none", "all"):
        session = make_session(found.path, 1, SessionOptions(optimization=optimization))
        answers, expected = run(session, asked), in_form(TRANSPOSED, choice.form)
        for name, wanted in make_graph_function(expected)(asked).items():
            np.testing.assert_allclose(answers[name], wanted, rtol=1e-4, atol=1e-4)
