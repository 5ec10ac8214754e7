"""Each form of a layer and of a table, in a graph: what it answers, and what is counted."""

import numpy as np
import onnx_ir as ir
import pytest

from recprune_export.onnx import count_weights, infer_shapes, strip_weights
from recprune_export.quantization.apply_quantization import quantize_weights
from recprune_export.quantization.candidates import find_candidates
from recprune_export.quantization.formats import int8_layers, quantize_by_dimension, quantize_by_row, quantized_tables
from recprune_export.quantization.observers import make_graph_function, observe
from recprune_export.quantization.quantization_plan import (
    FP16,
    INT4_BY_ROW,
    INT4_IN_BLOCKS,
    INT8_BY_DIMENSION,
    INT8_BY_ROW,
    INT8_DYNAMIC,
    INT8_STATIC,
)
from tests.onnx.graphs import floats, graph, operators

IDS = np.random.default_rng(0).integers(0, 50, size=(9, 3))
LOOKUP = "g (int64[batch, 3] ids) => (float[batch, 3, {0}] y) {{ y = Gather(table, ids) }}"
TWO_LAYERS = """g (float[batch, 8] x) => (float[batch, 5] y) {
    a = Gemm<transB=1>(x, first, b)
    h = Relu(a)
    p = MatMul(h, second)
    y = Add(p, c)
}"""
LIST = "g (float[batch, 4, 8] x) => (float[batch, 4, 6] y) { p = MatMul(x, first) s = Add(p, b) y = Relu(s) }"


def lookups(dimensions: int) -> ir.Model:
    return graph(LOOKUP.format(dimensions), table=floats(50, dimensions))


def two_layers() -> ir.Model:
    weights = {"first": floats(16, 8), "b": floats(16), "second": floats(16, 5, seed=1), "c": floats(5, seed=2)}
    weights["first"][:, 3] = 0.0
    return graph(TWO_LAYERS, **weights)


@pytest.mark.parametrize("dimensions", [6, 7])
def test_a_table_by_row_is_off_by_half_of_a_scale(dimensions: int) -> None:
    model = lookups(dimensions)
    found = make_graph_function(quantize_weights(model, {"table": INT8_BY_ROW}, {}))({"ids": IDS})["y"]
    table = floats(50, dimensions)
    _, scales = quantize_by_row(table)
    assert (np.abs(found - table[IDS]) <= scales[IDS] / 2 * (1 + 1e-5)).all()


def test_a_table_by_dimension_is_off_by_half_of_a_scale() -> None:
    found = make_graph_function(quantize_weights(lookups(6), {"table": INT8_BY_DIMENSION}, {}))({"ids": IDS})["y"]
    table = floats(50, 6)
    _, scales = quantize_by_dimension(table)
    assert (np.abs(found - table[IDS]) <= scales / 2 * (1 + 1e-5)).all()


def test_a_table_in_fp16_is_off_by_a_half_thousandth() -> None:
    found = make_graph_function(quantize_weights(lookups(6), {"table": FP16}, {}))({"ids": IDS})["y"]
    table = floats(50, 6)[IDS]
    assert (np.abs(found - table) <= 2**-11 * np.abs(table)).all()


@pytest.mark.parametrize("dimensions", [6, 7, 18])
def test_a_table_in_int4_is_off_by_half_of_a_scale(dimensions: int) -> None:
    table = floats(50, dimensions)
    _, scales = quantize_by_row(table, 7)
    forms = [INT4_BY_ROW] if dimensions % 2 else [INT4_BY_ROW, INT4_IN_BLOCKS]
    for form in forms:
        found = make_graph_function(quantize_weights(lookups(dimensions), {"table": form}, {}))({"ids": IDS})["y"]
        assert (np.abs(found - table[IDS]) <= scales[IDS] / 2 * (1 + 1e-5)).all()


@pytest.mark.parametrize("form", [FP16, INT8_BY_ROW, INT8_BY_DIMENSION, INT4_BY_ROW, INT4_IN_BLOCKS])
def test_parameters_of_a_table_are_counted_and_scales_are_not(form: str) -> None:
    model = lookups(6)
    weight = model.graph.initializers["table"]
    table = floats(50, 6)
    table[:, 2] = 0.0
    weight.const_value = ir.tensor(table, name="table")
    before, after = count_weights(model), count_weights(quantize_weights(model, {"table": form}, {}))
    assert after.tables.parameters == before.tables.parameters == 300
    assert after.tables.nonzero <= before.tables.nonzero == 250
    assert after.rest.parameters == 0
    if form in (FP16, INT8_BY_ROW):
        assert after.tables.nonzero > 240  # few numbers are so small that they round to zero


@pytest.mark.parametrize("form", [INT8_STATIC, INT8_DYNAMIC])
def test_layers_are_near_and_counted(form: str) -> None:
    model = two_layers()
    request = {"x": floats(64, 8, seed=5)}
    seen = observe(model, ["x", "h"], [request])
    result = quantize_weights(model, {"first": form, "second": form}, seen)
    wanted, found = make_graph_function(model)(request)["y"], make_graph_function(result)(request)["y"]
    assert 0 < np.abs(wanted - found).max() < 0.03 * np.abs(wanted).max()
    before, after = count_weights(model).rest, count_weights(result).rest
    assert after.parameters == before.parameters
    assert after.nonzero <= before.nonzero


def test_static_layers_pass_integers_to_each_other() -> None:
    model = two_layers()
    result = quantize_weights(
        model, {"first": INT8_STATIC, "second": INT8_STATIC}, observe(model, ["x", "h"], [{"x": floats(64, 8)}])
    )
    kinds = operators(result)
    assert kinds["QuantizeLinear"] == 2
    assert kinds["Gemm"] == 1  # which ONNX Runtime fuses with the rounding behind it
    assert kinds["QGemm"] == 1  # its floats leave the graph


@pytest.mark.parametrize("form", [INT8_STATIC, INT8_DYNAMIC])
def test_a_layer_over_a_list_keeps_its_axes(form: str) -> None:
    model = graph(LIST, first=floats(8, 6), b=floats(6))
    request = {"x": floats(5, 4, 8, seed=3)}
    result = quantize_weights(model, {"first": form}, observe(model, ["x"], [request]))
    wanted, found = make_graph_function(model)(request)["y"], make_graph_function(result)(request)["y"]
    assert found.shape == (5, 4, 6)
    assert np.abs(wanted - found).max() < 0.03 * np.abs(wanted).max()


@pytest.mark.parametrize("form", [INT8_STATIC, INT8_DYNAMIC])
def test_shapes_are_known_behind_every_form(form: str) -> None:
    model = two_layers()
    result = quantize_weights(model, {"second": form}, observe(model, ["h"], [{"x": floats(9, 8)}]))
    assert infer_shapes(strip_weights(result).model, 7)["y"] == (7, 5)
    tables_too = quantize_weights(lookups(6), {"table": INT4_IN_BLOCKS}, {})
    assert infer_shapes(strip_weights(tables_too).model, 7)["y"] == (7, 3, 6)


def test_answers_of_a_static_layer_do_not_depend_on_other_rows() -> None:
    model = two_layers()
    request = {"x": floats(64, 8, seed=5)}
    result = quantize_weights(model, {"first": INT8_STATIC}, observe(model, ["x"], [request]))
    answer = make_graph_function(result)
    alone = answer({"x": request["x"][:1]})["y"]
    request["x"][1] *= 100.0
    assert np.allclose(answer(request)["y"][0], alone[0], rtol=1e-6)


def test_a_weight_that_two_layers_read_is_left() -> None:
    text = "g (float[batch, 6] x) => (float[batch, 6] y) { a = MatMul(x, w) y = MatMul(a, w) }"
    found = find_candidates(graph(text, w=floats(6, 6)))
    assert not found.layers
    assert [each.name for each in found.excluded] == ["w"]


def test_a_table_with_infinity_is_left() -> None:
    table = floats(50, 6)
    table[3, 2] = np.inf
    found = find_candidates(graph(LOOKUP.format(6), table=table))
    assert found.excluded[0].reason == "it holds NaN or infinity"


def test_bytes_are_those_of_the_file() -> None:
    model = lookups(6)
    table = find_candidates(model).tables["table"]
    for form in (FP16, INT8_BY_ROW, INT8_BY_DIMENSION, INT4_BY_ROW):
        result = quantize_weights(model, {"table": form}, {})
        held = sum(v.const_value.nbytes for v in result.graph.initializers.values() if v.const_value is not None)
        assert abs(held - quantized_tables.count_table_bytes(table, form)[1]) < 20  # constants of the arithmetic
    layer = find_candidates(two_layers()).layers["first"]
    assert int8_layers.count_layer_bytes(layer) == (4 * 128, 128 + 4 * 16)
