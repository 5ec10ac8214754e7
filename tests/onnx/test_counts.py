"""Counts of models that were counted by hand."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from recprune_export.onnx import Counts, count, reduction
from recprune_export.onnx.counts import WeightCount

ROWS, DIM, UNITS = 10, 4, 3


def tensor(name: str, *shape: int, zeros: int = 0, value: float = 0.5) -> TensorProto:
    array = np.full(shape, value, dtype=np.float32)
    array.reshape(-1)[:zeros] = 0.0
    return numpy_helper.from_array(array, name)


def write(path: Path, nodes: list[onnx.NodeProto], weights: list[TensorProto], external: bool = False) -> Path:
    """A model that takes `ids` [batch, 2] and gives `out`."""
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", 2])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [ids], [out], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path, save_as_external_data=external, location="weights.bin", size_threshold=0)
    return path


def mlp() -> tuple[list[onnx.NodeProto], list[TensorProto]]:
    """Ids moved by an offset, looked up, flattened, a linear layer of 8 to 3, scaled, a linear layer of 3 to 1."""
    nodes = [
        helper.make_node("Add", ["ids", "offset"], ["moved"]),
        helper.make_node("Gather", ["table", "moved"], ["vectors"]),
        helper.make_node("Gather", ["positions", "order"], ["places"]),
        helper.make_node("Add", ["vectors", "places"], ["placed"]),
        helper.make_node("Flatten", ["placed"], ["flat"], axis=1),
        helper.make_node("Gemm", ["flat", "w1", "b1"], ["hidden"], transB=1),
        helper.make_node("Mul", ["hidden", "half"], ["scaled"]),
        helper.make_node("Mul", ["scaled", "half_of_one_axis"], ["scaled_again"]),
        helper.make_node("MatMul", ["scaled_again", "w2"], ["product"]),
        helper.make_node("Add", ["product", "b2"], ["out"]),
    ]
    weights = [
        numpy_helper.from_array(np.array(1), "offset"),
        tensor("table", ROWS, DIM, zeros=DIM),
        tensor("positions", 2, DIM),
        numpy_helper.from_array(np.arange(2), "order"),
        tensor("w1", UNITS, 2 * DIM, zeros=5),
        tensor("b1", UNITS),
        tensor("half"),
        tensor("half_of_one_axis", 1),
        tensor("w2", UNITS, 1, zeros=1),
        tensor("b2", 1),
    ]
    return nodes, weights


def test_a_model_counted_by_hand(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", *mlp())
    rest = 2 * DIM + UNITS * 2 * DIM + UNITS + UNITS + 1  # positions, w1, b1, w2, b2
    assert count(path) == Counts(
        tables=WeightCount(ROWS * DIM, ROWS * DIM - DIM, 4 * ROWS * DIM),
        rest=WeightCount(rest, rest - 6, 4 * rest),
        operations=2 * DIM * UNITS + UNITS,
        nodes=10,
        bytes=path.stat().st_size,
    )


def test_weights_in_a_file_of_their_own_are_counted_alike(tmp_path: Path) -> None:
    inside = count(write(tmp_path / "inside.onnx", *mlp()))
    path = write(tmp_path / "outside.onnx", *mlp(), external=True)
    outside = count(path)
    assert (outside.tables, outside.rest, outside.operations) == (inside.tables, inside.rest, inside.operations)
    assert outside.bytes == path.stat().st_size + (tmp_path / "weights.bin").stat().st_size


def test_a_stranger_beside_the_model_is_not_part_of_it(tmp_path: Path) -> None:
    path = write(tmp_path / "model.onnx", *mlp())
    (tmp_path / "model.onnx.data").write_bytes(b"left from another model")
    assert count(path).bytes == path.stat().st_size


def test_a_constant_node_is_a_parameter_and_a_mask_is_not(tmp_path: Path) -> None:
    mask = np.triu(np.full((2, DIM), -np.inf, dtype=np.float32), 1)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("Constant", [], ["gain"], value=tensor("", DIM, zeros=1)),
        helper.make_node("Mul", ["vectors", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mask"], ["masked"]),
        helper.make_node("Add", ["masked", "low"], ["out"]),
    ]
    weights = [
        tensor("table", ROWS, DIM),
        numpy_helper.from_array(mask, "mask"),
        numpy_helper.from_array(np.maximum(mask, np.finfo(np.float32).min), "low"),
    ]
    assert count(write(tmp_path / "model.onnx", nodes, weights)).rest == WeightCount(DIM, DIM - 1, 4 * DIM)


def test_positions_are_no_table_though_their_number_comes_from_the_request(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "one"], ["length"]),
        helper.make_node("Range", ["zero", "length", "one"], ["order"]),
        helper.make_node("Gather", ["positions", "order"], ["places"]),
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("Add", ["vectors", "places"], ["out"]),
    ]
    integers = [numpy_helper.from_array(np.array(value), name) for value, name in ((0, "zero"), (1, "one"))]
    weights = [tensor("table", ROWS, DIM), tensor("positions", 2, DIM), *integers]
    counts = count(write(tmp_path / "model.onnx", nodes, weights))
    assert (counts.tables.parameters, counts.rest.parameters) == (ROWS * DIM, 2 * DIM)


def test_columns_that_the_request_picks_are_no_table(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["matrix", "ids"], ["out"], axis=1)]
    counts = count(write(tmp_path / "model.onnx", nodes, [tensor("matrix", ROWS, DIM)]))
    assert (counts.tables.parameters, counts.rest.parameters) == (0, ROWS * DIM)


def test_weights_of_zeros_alone_are_parameters(tmp_path: Path) -> None:
    nodes = [helper.make_node("Gather", ["table", "ids"], ["x"]), helper.make_node("Add", ["x", "bias"], ["out"])]
    weights = [tensor("table", ROWS, DIM, value=0.0), tensor("bias", DIM, value=0.0)]
    counts = count(write(tmp_path / "model.onnx", nodes, weights))
    assert counts.tables == WeightCount(ROWS * DIM, 0, 4 * ROWS * DIM)
    assert counts.rest == WeightCount(DIM, 0, 4 * DIM)


def test_a_sum_as_a_product_is_no_operation(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("Flatten", ["vectors"], ["flat"], axis=1),
        helper.make_node("Cast", ["identities"], ["ones"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["flat", "ones"], ["out"]),
    ]
    identities = numpy_helper.from_array(np.tile(np.eye(DIM, dtype=np.int8), (2, 1)), "identities")
    counts = count(write(tmp_path / "model.onnx", nodes, [tensor("table", ROWS, DIM), identities]))
    assert (counts.operations, counts.rest.parameters) == (0, 0)


def test_products_of_batches_count_each_of_them(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["z"]),  # 1 × 2 × 4
        helper.make_node("Transpose", ["z"], ["zt"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["z", "zt"], ["out"]),  # 1 × 2 × 2
    ]
    assert count(write(tmp_path / "model.onnx", nodes, [tensor("table", ROWS, DIM)])).operations == 2 * 2 * DIM


def test_reduction_compares_what_is_not_zero_with_what_there_was() -> None:
    dense = Counts(WeightCount(100, 90), WeightCount(50, 50), operations=40, nodes=3, bytes=1000)
    pruned = Counts(WeightCount(60, 25), WeightCount(20, 10), operations=10, nodes=3, bytes=250)
    gone = reduction(dense, pruned)
    assert (gone.tables, gone.rest, gone.operations, gone.bytes) == pytest.approx((0.75, 0.8, 0.75, 0.75))
    assert gone.parameters == pytest.approx(1 - 35 / 150)
    removed, zeroed = gone.removed, gone.zeroed
    assert (removed.tables, removed.rest, removed.parameters) == pytest.approx((0.4, 0.6, 70 / 150))
    assert (zeroed.tables, zeroed.rest, zeroed.parameters) == pytest.approx((0.35, 0.2, 45 / 150))
    assert pruned.total == WeightCount(80, 35)


def test_a_part_that_is_not_there_loses_nothing() -> None:
    nothing = Counts(WeightCount(0, 0), WeightCount(0, 0), operations=0, nodes=0, bytes=0)
    assert reduction(nothing, nothing).tables == 0.0


def test_counts_are_plain_json_values(tmp_path: Path) -> None:
    counts = count(write(tmp_path / "model.onnx", *mlp()))
    assert json.loads(json.dumps(counts.to_dict()))["tables"] == {"parameters": 40, "nonzero": 36, "bytes": 160}


@pytest.mark.parametrize("module", ["counts", "runtime.session"])
def test_torch_is_not_needed(module: str) -> None:
    code = f"import recprune_export.onnx.{module}, sys; assert not {{'torch', 'onnxruntime'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def _layer(*before: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Two looked-up rows of DIM numbers, flattened by `before`, which gives 'flat', and a layer of UNITS outputs."""
    return [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        *before,
        helper.make_node("MatMul", ["flat", "w1"], ["out"]),
    ]


_LAYER_WEIGHTS = [tensor("table", ROWS, DIM), tensor("w1", 2 * DIM, UNITS)]
_RUN_TIME_SIZES = [
    helper.make_node("Shape", ["vectors"], ["sizes"]),
    helper.make_node("Cast", ["sizes"], ["floats"], to=TensorProto.FLOAT),
    helper.make_node("Split", ["floats"], ["rows", "fields", "dim"], num_outputs=3),
    helper.make_node("Mul", ["fields", "dim"], ["width"]),
    helper.make_node("Concat", ["rows", "width"], ["joined"], axis=0),
    helper.make_node("Cast", ["joined"], ["target"], to=TensorProto.INT64),
    helper.make_node("Reshape", ["vectors", "target"], ["flat"]),
]


@pytest.mark.parametrize("external", [False, True])
def test_operations_behind_sizes_that_are_computed_at_run_time(tmp_path: Path, external: bool) -> None:
    """ONNX infers no shape behind them: ONNX Runtime tells it."""
    counts = count(write(tmp_path / "m.onnx", _layer(*_RUN_TIME_SIZES), _LAYER_WEIGHTS, external))
    assert (counts.operations, counts.operations_complete) == (2 * DIM * UNITS, True)


def test_operations_of_an_einsum(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("Einsum", ["vectors", "vectors"], ["out"], equation="bfd,bgd->bfg"),
    ]
    counts = count(write(tmp_path / "m.onnx", nodes, [tensor("table", ROWS, DIM)]))
    assert (counts.operations, counts.operations_complete) == (2 * 2 * DIM, True)


def test_operations_in_a_loop_are_a_lower_bound(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes_on"]),
            helper.make_node("MatMul", ["state", "square"], ["new_state"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("new_state", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("Flatten", ["vectors"], ["flat"], axis=1),
        helper.make_node("Loop", ["turns", "", "flat"], ["looped"], body=body),
        helper.make_node("MatMul", ["looped", "w1"], ["out"]),
    ]
    weights = [*_LAYER_WEIGHTS, tensor("square", 2 * DIM, 2 * DIM), numpy_helper.from_array(np.array(3), "turns")]
    counts = count(write(tmp_path / "m.onnx", nodes, weights))
    assert counts.operations == 2 * DIM * UNITS
    assert not counts.operations_complete


def test_operations_in_a_function(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.onnx", _layer(helper.make_node("Flatten", ["vectors"], ["flat"], axis=1)), _LAYER_WEIGHTS
    )
    model = onnx.load(path)
    product = model.graph.node.pop()
    model.functions.append(
        helper.make_function(
            "own", "Product", ["a", "b"], ["c"], [helper.make_node("MatMul", ["a", "b"], ["c"])], model.opset_import
        )
    )
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node.append(helper.make_node("Product", product.input, product.output, domain="own"))
    onnx.save(model, path)
    counts = count(path)
    assert (counts.operations, counts.operations_complete) == (2 * DIM * UNITS, True)


def test_operations_over_an_axis_that_the_file_does_not_state_are_a_lower_bound(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["vectors"]),
        helper.make_node("MatMul", ["vectors", "narrow"], ["out"]),
    ]
    path = write(tmp_path / "m.onnx", nodes, [tensor("table", ROWS, DIM), tensor("narrow", DIM, UNITS)])
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "length"
    onnx.save(model, path)
    counts = count(path)
    assert (counts.operations, counts.operations_complete) == (DIM * UNITS, False)
