"""Each form of a layer and of a table, in a graph: what it answers, and what is counted."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from recprune_export.onnx import (
    SessionOptions,
    count,
    count_weights,
    infer_shapes,
    load_session,
    make_session,
    run,
    strip_weights,
)
from recprune_export.onnx.saving import save_onnx
from recprune_export.quantization.apply_quantization import quantize_weights
from recprune_export.quantization.candidates import find_candidates
from recprune_export.quantization.formats import int8_layers, quantize_by_dimension, quantized_tables
from recprune_export.quantization.observers import make_graph_function, observe
from recprune_export.quantization.quantization_plan import (
    FP16,
    INT4_BY_ROW,
    INT4_IN_BLOCKS,
    INT4_STORED,
    INT8_BY_DIMENSION,
    INT8_BY_ROW,
    INT8_DYNAMIC,
    INT8_ONE_SCALE,
    INT8_STATIC,
    INT8_STORED,
)
from recprune_export.stored_bits import count_weight_bytes, fit_scales, round_rows
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


BY_ROW = tuple(quantized_tables.ROW_BITS)


@pytest.mark.parametrize("form", BY_ROW)
@pytest.mark.parametrize("dimensions", [1, 6, 7, 16])
def test_a_table_by_row_holds_the_rows_of_the_reference(dimensions: int, form: str, tmp_path: Path) -> None:
    bits, table = quantized_tables.ROW_BITS[form], floats(50, dimensions)
    table[IDS[0, 0]] = 0.0
    model = graph(LOOKUP.format(dimensions), table=table)
    result, expected = quantize_weights(model, {"table": form}, {}), round_rows(table, fit_scales(table, bits), bits)
    np.testing.assert_allclose(make_graph_function(result)({"ids": IDS})["y"], expected[IDS], rtol=1e-6, atol=0)
    ir.save(result, tmp_path / "model.onnx")
    for optimization in ("none", "all"):
        session = make_session(tmp_path / "model.onnx", 1, SessionOptions(optimization=optimization))
        for ids in (IDS, IDS[:0]):
            np.testing.assert_allclose(run(session, {"ids": ids})["y"], expected[ids], rtol=1e-6, atol=0)
    assert count(tmp_path / "model.onnx").tables.parameters == table.size


@pytest.mark.parametrize("form", BY_ROW)
def test_a_table_in_a_file_of_its_own_is_counted_alike(form: str, tmp_path: Path) -> None:
    table = floats(600, 13)
    table[7] = 0.0
    result = quantize_weights(graph(LOOKUP.format(13), table=table), {"table": form}, {})
    for name, threshold in (("inline", 1 << 30), ("external", 0)):
        save_onnx(result, tmp_path / f"{name}.onnx", threshold)
    inline, external = (count(tmp_path / f"{name}.onnx") for name in ("inline", "external"))
    assert (external.tables, external.rest) == (inline.tables, inline.rest)
    assert external.tables.parameters == table.size


def test_a_table_by_dimension_is_off_by_half_of_a_scale() -> None:
    found = make_graph_function(quantize_weights(lookups(6), {"table": INT8_BY_DIMENSION}, {}))({"ids": IDS})["y"]
    table = floats(50, 6)
    _, scales = quantize_by_dimension(table)
    assert (np.abs(found - table[IDS]) <= scales / 2 * (1 + 1e-5)).all()


def test_a_table_in_fp16_is_off_by_a_half_thousandth() -> None:
    found = make_graph_function(quantize_weights(lookups(6), {"table": FP16}, {}))({"ids": IDS})["y"]
    table = floats(50, 6)[IDS]
    assert (np.abs(found - table) <= 2**-11 * np.abs(table)).all()


@pytest.mark.parametrize("size", [1.0, 1e9])
def test_a_table_in_blocks_is_off_by_half_of_a_scale(size: float) -> None:
    table = floats(50, 18) * np.float32(size)
    scales = np.abs(table).max(axis=1, keepdims=True) / 7
    model = graph(LOOKUP.format(18), table=table)
    result = quantize_weights(model, {"table": INT4_IN_BLOCKS}, {})
    found = make_graph_function(result)({"ids": IDS})["y"]
    assert (np.abs(found - table[IDS]) <= scales[IDS] * (0.51 if size == 1.0 else 0.5 + 1e-5)).all()
    stored = sum(value.const_value.nbytes for value in result.graph.initializers.values() if value.const_value)
    assert stored == 50 * (9 + (2 if size == 1.0 else 4))
    assert quantized_tables.count_table_bytes(find_candidates(model).tables["table"], INT4_IN_BLOCKS)[1] == stored


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
        assert abs(held - quantized_tables.count_table_bytes(table, form)[1]) < 700  # constants of the arithmetic
    layer = find_candidates(two_layers()).layers["first"]
    assert int8_layers.count_layer_bytes(layer) == (4 * 128, 128 + 16)


@pytest.mark.parametrize("form", [INT8_STATIC, INT8_DYNAMIC, INT8_STORED, INT4_STORED])
def test_bytes_of_a_layer_are_those_of_the_reference(form: str) -> None:
    model = two_layers()
    seen = observe(model, ["x"], [{"x": floats(64, 8)}])
    before, after = (
        sum(value.const_value.nbytes for value in each.graph.initializers.values() if value.const_value)
        for each in (model, quantize_weights(model, {"first": form}, seen))
    )
    expected = count_weight_bytes((8, 16), 4 if form == INT4_STORED else 8, is_table=False)
    assert abs(before - 4 * 128 + expected - after) < 200  # constants of the arithmetic


@pytest.mark.parametrize(("form", "bits"), [(INT8_STORED, 8), (INT4_STORED, 4)])
@pytest.mark.parametrize("text", [TWO_LAYERS, LIST])
def test_a_stored_layer_is_the_layer_of_its_rounded_weights(form: str, bits: int, text: str) -> None:
    model = two_layers() if text is TWO_LAYERS else graph(LIST, first=floats(8, 6), b=floats(6))
    weight = floats(16, 8) if text is TWO_LAYERS else floats(8, 6)
    rows = two_layers().graph.initializers["first"].const_value.numpy() if text is TWO_LAYERS else weight.T
    rounded = round_rows(rows, fit_scales(rows, bits), bits)
    expected = model.clone()
    array = rounded if text is TWO_LAYERS else np.ascontiguousarray(rounded.T)
    expected.graph.initializers["first"].const_value = ir.tensor(array, name="first")
    request = {"x": floats(9, 8) if text is TWO_LAYERS else floats(5, 4, 8)}
    result = quantize_weights(model, {"first": form}, {})
    wanted, found = (make_graph_function(each)(request)["y"] for each in (expected, result))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert count_weights(result).rest.parameters == count_weights(model).rest.parameters


@pytest.mark.parametrize("form", [INT8_STORED, INT4_STORED])
def test_a_session_widens_a_stored_layer_at_load(form: str, tmp_path: Path) -> None:
    kept = tmp_path / "optimized.onnx"
    options = SessionOptions().to_onnxruntime()
    options.optimized_model_filepath = str(kept)
    options.log_severity_level = 4
    for model, weight in ((two_layers(), "first"), (graph(LIST, first=floats(8, 6), b=floats(6)), "first")):
        load_session(ir.to_proto(quantize_weights(model, {weight: form}, {})).SerializeToString(), options, "the graph")
        left = {node.op_type for node in onnx.load(kept).graph.node}
        assert left <= {"Gemm", "FusedGemm", "MatMul", "Add", "Relu"}


def test_an_output_without_weights_keeps_its_bias() -> None:
    model = two_layers()
    weight, request = model.graph.initializers["first"], {"x": floats(64, 8, seed=5)}
    array = floats(16, 8)
    array[2] = 0.0
    weight.const_value = ir.tensor(array, name="first")
    model.graph.outputs[:] = [next(node.outputs[0] for node in model.graph if node.op_type == "Relu")]
    wanted = make_graph_function(model)(request)["h"]
    for form in (INT8_STATIC, INT8_DYNAMIC, INT8_STORED, INT4_STORED):
        result = quantize_weights(model, {"first": form}, observe(model, ["x"], [request]))
        np.testing.assert_allclose(make_graph_function(result)(request)["h"][:, 2], wanted[:, 2], atol=0.02)


@pytest.mark.parametrize("form", [INT8_STATIC, INT8_ONE_SCALE, INT8_DYNAMIC])
def test_an_output_of_tiny_weights_keeps_its_bias(form: str) -> None:
    weight, bias = floats(8, 3), np.array([0.5, 1.0, -3.0], np.float32)
    weight[:, 1] *= 1e-6
    model = graph("g (float[batch, 8] x) => (float[batch, 3] y) { y = Gemm(x, w, b) }", w=weight, b=bias)
    request = {"x": floats(64, 8, seed=5) * np.float32(0.01)}
    result = quantize_weights(model, {"w": form}, request)
    wanted, answer = (make_graph_function(each)(request)["y"] for each in (model, result))
    np.testing.assert_allclose(answer, wanted, atol=2e-3)
