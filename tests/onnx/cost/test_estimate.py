"""Costs that were counted by hand, and a floor below what is measured."""

import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from recprune_export.onnx import (
    REFERENCE,
    Cost,
    estimate_cost,
    estimate_file_cost,
    fill_shapes,
    infer_shapes,
    make_in_memory_session,
    strip_weights,
)
from recprune_export.onnx.cost.cost_constants import OTHERS, PRODUCT
from recprune_export.onnx.cost.machine import measure_machine
from recprune_export.onnx.cost.operator_cost import Operator, TensorSpec, compute_workload
from tests.onnx.graphs import floats, graph, numbers

ROWS, DIM, UNITS = 100, 8, 16
MLP = (
    "g (int64[batch, 3] ids) => (float[batch, 16] y)"
    " { e = Gather(table, ids) f = Reshape(e, flat) h = Gemm<transB=1>(f, w, b) y = Relu(h) }"
)


def mlp() -> ir.Model:
    return graph(MLP, table=floats(ROWS, DIM), flat=numbers(-1, 24), w=floats(UNITS, 24), b=floats(UNITS))


def cost(model: ir.Model, batch: int) -> Cost:
    return estimate_cost(strip_weights(model).model, batch)


@pytest.mark.parametrize("batch", [1, 7])
def test_a_model_counted_by_hand(batch: int) -> None:
    counted = cost(mlp(), batch)
    assert counted.operations == batch * 24 * UNITS
    assert counted.weights == 4 * (batch * 3 * DIM + UNITS * 24 + UNITS)  # rows of the table, w and b
    assert counted.interface == batch * (3 * 8 + UNITS * 4)
    computing, reading = counted.operations / REFERENCE.fp32, counted.weights + counted.interface
    starts = REFERENCE.call + REFERENCE.node * len(counted.nodes)
    assert counted.floor == pytest.approx(starts + max(computing, reading / REFERENCE.read_rate(reading)))
    assert counted.floor < counted.estimate / OTHERS  # the estimate takes a simple node for a little less than one


def test_an_activation_behind_a_layer_costs_a_node_and_no_traffic() -> None:
    by_name = {node.operator: node for node in cost(mlp(), 64).nodes}
    assert by_name["Relu"].estimate < by_name["Gather"].estimate
    assert by_name["Relu"].floor == REFERENCE.node


def test_what_follows_from_constants_is_computed_at_load() -> None:
    text = "g (float[batch, 24] x) => (float[batch, 16] y) {{ {0} y = MatMul(x, w) }}"
    as_it_is = cost(graph(text.format(""), w=floats(24, UNITS)), 64)
    read = graph(text.format("s = Mul(v, two) w = Transpose(s)"), v=floats(UNITS, 24), two=floats(1))
    made = cost(read, 64)
    assert [node.estimate for node in made.nodes if node.operator != "MatMul"] == [0.0, 0.0]
    assert made.estimate == pytest.approx(as_it_is.estimate)
    assert made.to_dict() == as_it_is.to_dict()


def test_weights_that_a_product_widens_are_read_as_bytes() -> None:
    text = "g (float[batch, 24] x) => (float[batch, 16] y) { w = DequantizeLinear<axis=1>(v, s) y = MatMul(x, w) }"
    counted = cost(graph(text, v=np.ones((24, UNITS), dtype=np.int8), s=floats(UNITS)), 64)
    assert counted.weights == 24 * UNITS


def test_costs_grow_with_the_batch() -> None:
    estimates = [cost(mlp(), batch).estimate for batch in (1, 32, 256, 1024)]
    assert estimates == sorted(estimates)


def test_weights_apart_cost_the_same(tmp_path: Path) -> None:
    ir.save(mlp(), tmp_path / "inside.onnx")
    ir.save(mlp(), tmp_path / "outside.onnx", external_data="weights.bin")
    inside, outside = (estimate_file_cost(tmp_path / f"{name}.onnx", 5) for name in ("inside", "outside"))
    assert inside.to_dict() == outside.to_dict()


def test_a_product_of_batches_is_many_products() -> None:
    text = "g (float[batch, 5, 4] x) => (float[batch, 5, 5] y) { t = Transpose<perm=[0, 2, 1]>(x) y = MatMul(x, t) }"
    product = next(node.workload for node in cost(graph(text), 6).nodes if node.operator == "MatMul")
    assert (product.operations, product.calls) == (6 * 5 * 5 * 4, 6)


def test_what_makes_no_products_gets_no_credit_for_it() -> None:
    text = "g (float[batch, 4] x) => (float[batch, 4] y) { a = Selu(x) b = Transpose<perm=[1, 0]>(a) y = Reshape(b, four) }"
    for node in cost(graph(text, four=numbers(-1, 4)), 3).nodes:
        assert node.workload.calls == 0
        assert node.estimate >= node.workload.nodes * REFERENCE.node


@pytest.mark.parametrize("batch", [1, 2, 9])
def test_every_product_of_a_batch_but_the_first_is_begun_anew(batch: int) -> None:
    text = "g (float[batch, 5, 4] x, float[batch, 4, 3] w) => (float[batch, 5, 3] y) { y = MatMul(x, w) }"
    (node,) = cost(graph(text), batch).nodes
    assert node.terms.calls == pytest.approx((batch - 1) * PRODUCT)


def test_an_operator_nobody_knows_costs_its_traffic() -> None:
    text = "g (float[batch, 4] x) => (float[batch, 4] y) { y = Selu(x) }"
    (node,) = cost(graph(text), 3).nodes
    assert (node.workload.operations, node.workload.activations) == (0, 2 * 3 * 4 * 4)


def test_shapes_that_nobody_knows_cost_nothing() -> None:
    from onnx import helper

    node = helper.make_node("Gemm", ["x", "w"], ["y"])
    assert compute_workload(Operator(node, (None, TensorSpec((3, 4))), (TensorSpec((2, 4)),))).operations == 0


def test_missing_shapes_are_found_as_terms_of_the_batch() -> None:
    text = (
        "g (float[batch, 6] x) => (float[rows, 2] y)"
        " { a = Reshape(x, three) b = Relu(a) c = Transpose<perm=[1, 0]>(b) y = Reshape(c, two) }"
    )
    model = graph(text, three=numbers(-1, 2), two=numbers(-1, 2))
    for node in model.graph:
        if node.op_type in ("Relu", "Transpose"):
            node.outputs[0].shape = node.outputs[0].type = None
    fill_shapes(model)
    shapes = {node.op_type: [str(size) for size in node.outputs[0].shape or ()] for node in model.graph}
    assert (shapes["Relu"], shapes["Transpose"]) == (["3*batch", "2"], ["2", "3*batch"])
    assert infer_shapes(strip_weights(model).model, 4)["y"] == (12, 2)


def test_the_floor_lies_below_what_is_measured() -> None:
    machine = measure_machine(1)
    model = graph(
        "g (float[batch, 256] x) => (float[batch, 256] y) { a = Gemm<transB=1>(x, w, b) y = Relu(a) }",
        w=floats(256, 256), b=floats(256),
    )  # fmt: skip
    request, run = [floats(64, 256)], make_in_memory_session(model)
    times = []
    for _ in range(30):
        start = time.perf_counter()
        run(request)
        times.append(time.perf_counter() - start)
    floor = estimate_cost(strip_weights(model).model, 64, machine).floor
    assert 0.0 < floor < min(times)


def test_larger_working_sets_are_read_no_faster_than_the_reference_says() -> None:
    rates = [REFERENCE.read_rate(1 << bits) for bits in (10, 19, 21, 22, 24, 26, 30)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == REFERENCE.reads[0]
    assert rates[-1] == REFERENCE.reads[-1]
    assert np.isfinite(rates).all()


def test_what_depends_on_the_file_alone_costs_nothing_at_a_request() -> None:
    text = "g (float[batch, 4] x) => (float[batch, 3] y) { ones = Cast<to=1>(bits) y = MatMul(x, ones) }"
    cast, product = cost(graph(text, bits=np.ones((4, 3), dtype=np.int8)), 5).nodes
    assert (cast.estimate, cast.floor) == (0.0, 0.0)
    assert product.workload.weights == 4 * 3 * 4


def test_a_sum_over_a_middle_axis_costs_by_the_rows_that_result() -> None:
    def reduce(shape: str, result: str) -> float:
        text = f"g (float[{shape}] x) => (float[{result}] y) {{ y = ReduceSum<keepdims=0>(x, axis) }}"
        (node,) = cost(graph(text, axis=numbers(1)), 64).nodes
        return node.terms.pieces

    assert reduce("batch, 5, 16", "batch, 16") == reduce("batch, 50, 16", "batch, 16") > 0.0


def test_one_axis_moved_is_transposed_faster_than_all_axes_turned_round() -> None:
    def transpose(order: str, result: str) -> float:
        text = f"g (float[batch, 8, 16] x) => (float[{result}] y) {{ y = Transpose<perm=[{order}]>(x) }}"
        return cost(graph(text), 64).nodes[0].estimate

    assert transpose("0, 2, 1", "batch, 16, 8") < transpose("2, 1, 0", "16, 8, batch") / 3


def test_every_input_beyond_the_first_is_handed_over() -> None:
    one = cost(graph("g (float[batch, 4] x) => (float[batch, 4] y) { y = Add(x, x) }"), 2)
    two = cost(graph("g (float[batch, 4] x, float[batch, 4] z) => (float[batch, 4] y) { y = Add(x, z) }"), 2)
    assert two.estimate - one.estimate > two.nodes[0].estimate - one.nodes[0].estimate


def test_a_transpose_of_rows_that_share_cache_sets_takes_longer() -> None:
    steps = {}
    for width in (512, 520):  # floats; 2,048 bytes are a multiple of the distance of equal sets
        text = f"g (float[batch, {width}] x) => (float[{width}, batch] y) {{ y = Transpose<perm=[1, 0]>(x) }}"
        (node,) = estimate_cost(strip_weights(graph(text)).model, 64).nodes
        steps[width] = node.terms.steps / width
    assert steps[512] > 3 * steps[520]


def test_what_follows_a_range_over_the_batch_has_its_stated_shape() -> None:
    """ONNX infers no shape for the Range: what is computed with it seemed to cost nothing at batch 1."""
    model = graph(
        "g (float[batch, 4] x) => (float[batch, 4] y)"
        " { n = Shape<start=0, end=1>(x) m = Squeeze(n) r = Range(zero, m, one) u = Unsqueeze(r, axis) f = Cast<to=1>(u) y = Add(x, f) }",
        zero=np.array(0),
        one=np.array(1),
        axis=np.array([1]),
    )
    value = next(node for node in model.graph if node.op_type == "Cast").outputs[0]
    unknown = infer_shapes(strip_weights(model).model, 1)
    assert "y" not in unknown
    value.shape = ir.Shape([ir.SymbolicDim("batch"), 1])
    assert infer_shapes(strip_weights(model).model, 1)["y"] == (1, 4)
