"""Signatures that are read from graphs, and what is refused rather than guessed."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from recprune_export.errors import ModelFileError
from recprune_export.gate.graph_signature import read_signature
from recprune_export.onnx import make_session, run
from recprune_export.program import BATCH, Input, Output
from recprune_export.validation import make_edge_requests
from tests.gate.models import Shape, plain

Nodes = list[onnx.NodeProto]


def write(path: Path, nodes: Nodes, shape: list[str | int], dtype: int = TensorProto.INT64) -> Path:
    """A model that takes `x`, with tables of 10 and 6 rows and some constants, and gives `y`."""
    constants = {
        "ten": np.ones((10, 2), np.float32),
        "six": np.ones((6, 2), np.float32),
        "offsets": np.array([0, 4]),
        "parts": np.array([4, 6]),
        "outside": np.array(10),
        "column": np.array(2),
        "one": np.array([1]),
        "ends": np.array([2]),
        "axis": np.array([1]),
        "zero": np.array([0]),
        "two": np.array(2.0, np.float32),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def node(op: str, inputs: str, output: str, **attributes: int) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], **attributes)


LOOKUPS: dict[str, tuple[Nodes, list[str | int], int]] = {
    "a table": ([node("Gather", "ten x", "y")], ["n"], 9),
    "the smaller of two": (
        [node("Gather", "ten x", "a"), node("Gather", "six x", "b"), node("Add", "a b", "y")],
        ["n"],
        5,
    ),
    "after a cast": ([node("Cast", "x i", "i", to=TensorProto.INT32), node("Gather", "ten i", "y")], ["n"], 9),
    "after unsqueeze": ([node("Unsqueeze", "x one", "i"), node("Gather", "ten i", "y")], ["n"], 9),
    "a column": ([node("Slice", "x zero ends axis", "i"), node("Gather", "six i", "y")], ["n", 3], 5),
    "by offsets": ([node("Unsqueeze", "x one", "i"), node("GatherND", "ten i", "y")], ["n"], 9),
    "a column by its position": (
        [node("Gather", "x column", "i", axis=1), node("Gather", "six i", "y")],
        ["n", 3],
        5,
    ),
    "parts of a fused table": (
        [
            node("Less", "x parts", "fits"),
            node("Add", "x offsets", "moved"),
            node("Where", "fits moved outside", "i"),
            node("Gather", "ten i", "y"),
        ],
        ["n", 2],
        3,
    ),
    "with offsets": ([node("Add", "x offsets", "i"), node("Gather", "ten i", "y")], ["n", 2], 5),
}
LOOKUPS["after a cast"][0][0].input.pop()  # Cast has one input


@pytest.mark.parametrize(("nodes", "shape", "highest"), LOOKUPS.values(), ids=LOOKUPS.keys())
def test_ids_come_from_the_tables_and_are_valid(
    nodes: Nodes, shape: list[str | int], highest: int, tmp_path: Path
) -> None:
    path = write(tmp_path / "model.onnx", nodes, shape)
    signature = read_signature(path)
    (x,) = signature.inputs
    assert x.ids == ((0, highest),)
    assert x.shape == (BATCH, *shape[1:])
    session = make_session(path, 1)
    for request in make_edge_requests(signature).values():
        run(session, request)


def test_each_field_of_a_fused_table_has_its_range(tmp_path: Path) -> None:
    """`a` has rows 0 to 3 of the table, `b` rows 4 to 9; both are looked up at once."""
    constants = {
        "table": np.ones((10, 2), np.float32),
        "by_field": np.array([2, -1]),
        "rows": np.array([[4], [6]]),
        "offsets": np.array([[0], [4]]),
        "lowest": np.array(0),
    }
    nodes = [
        node("Concat", "a b", "joined", axis=0),
        node("Reshape", "joined by_field", "fields"),
        node("Clip", "fields lowest", "raised"),
        node("Less", "raised rows", "fits"),
        node("Where", "fits raised lowest", "valid"),
        node("Add", "valid offsets", "moved"),
        node("Gather", "table moved", "y"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.INT64, ["n"]) for name in "ab"],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "m.onnx")
    assert [value.ids for value in read_signature(tmp_path / "m.onnx").inputs] == [((0, 3),), ((0, 5),)]


def test_names_dtypes_and_shapes_are_those_of_the_file(tmp_path: Path) -> None:
    signature = read_signature(plain(tmp_path / "model.onnx", Shape(rows=30)))
    assert signature.inputs == (
        Input("user", "int64", (BATCH,), ((0, 29),)),
        Input("item", "int64", (BATCH,), ((0, 29),)),
    )
    assert signature.outputs == (Output("click", "float32", (BATCH, 1)),)


def test_numbers_need_no_table(tmp_path: Path) -> None:
    signature = read_signature(write(tmp_path / "m.onnx", [node("Mul", "x two", "y")], ["n", 3], TensorProto.FLOAT))
    assert signature.inputs == (Input("x", "float32", (BATCH, 3)),)


@pytest.mark.parametrize(
    ("nodes", "shape", "said"),
    [
        ([node("Add", "x x", "y")], ["n"], "which integers 'x' accepts"),
        ([node("Gather", "ten x", "y")], ["n", "length"], "axis of unknown size, 'length'"),
    ],
)
def test_what_nothing_says_is_refused(nodes: Nodes, shape: list[str | int], said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=said):
        read_signature(write(tmp_path / "model.onnx", nodes, shape))


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\x0a"])
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"(is not an|is no) ONNX model"):
        read_signature(tmp_path / "model.onnx")


@pytest.mark.parametrize("limit", [5.5, np.inf])
def test_a_number_that_is_compared_is_no_id(limit: float, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Less", ["x", "limit"], ["less"]),
        helper.make_node("Where", ["less", "x", "limit"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    constant = numpy_helper.from_array(np.float32(limit), "limit")
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "capped", ends[:1], ends[1:], [constant])), tmp_path / "m.onnx"
    )
    assert read_signature(tmp_path / "m.onnx").inputs == (Input("x", "float32", (BATCH, 3)),)
