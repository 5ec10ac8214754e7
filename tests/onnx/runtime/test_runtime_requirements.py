"""What a file needs is read from its format, its operator sets and its operators, those in subgraphs included."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from recprune_export.errors import ExportError
from recprune_export.onnx.runtime.runtime_requirements import check_requirements, read_requirements
from recprune_export.runtime_releases import RuntimeTarget


def model(*nodes: onnx.NodeProto, opset: int = 20, ir: int = 9, ml: int | None = None) -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    opsets += [] if ml is None else [helper.make_opsetid("ai.onnx.ml", ml)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in "xy")
    graph = helper.make_graph([*nodes, helper.make_node("Relu", ["x"], ["y"])], "small", [x], [y])
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir)


BLOCKS = helper.make_node("GatherBlockQuantized", ["a", "b", "c"], ["d"], domain="com.microsoft")
INSIDE = helper.make_node(
    "If", ["a"], ["d"],
    then_branch=helper.make_graph([BLOCKS], "then", [], []), else_branch=helper.make_graph([], "else", [], []),
)  # fmt: skip
ENCODER = helper.make_node("LabelEncoder", ["a"], ["d"], domain="ai.onnx.ml")


@pytest.mark.parametrize(
    ("file", "release", "reason"),
    [
        (model(), "1.17", None),
        (model(opset=18, ir=8), "1.17", None),
        (model(ir=10), "1.18", "ONNX format 10"),
        (model(opset=23, ir=11), "1.23", "ONNX format 11"),
        (model(opset=22, ir=10), "1.21", "operator set 22"),
        (model(BLOCKS), "1.23", "GatherBlockQuantized"),
        (model(INSIDE), "1.23", "GatherBlockQuantized"),
        (model(ENCODER, ml=4), "1.17", None),
        (model(ENCODER, ml=5), "1.18", "operator set 5 of ai.onnx.ml"),
        (model(ml=5), "1.17", None),  # declared, and not used
    ],
)
def test_the_oldest_release_and_its_reason(file: onnx.ModelProto, release: str, reason: str | None) -> None:
    needed = read_requirements(file)
    assert (needed.onnxruntime, needed.reason) == (release, reason)


def test_domains_without_a_node_are_not_stated() -> None:
    assert read_requirements(model()).opsets == {"ai.onnx": 20}
    assert read_requirements(model(BLOCKS)).opsets == {"ai.onnx": 20, "com.microsoft": 1}


def test_a_file_that_needs_a_later_release_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(model(BLOCKS), path)
    assert check_requirements(path, RuntimeTarget(release="1.23")).onnxruntime == "1.23"
    with pytest.raises(
        ExportError, match=r"model\.onnx needs ONNX Runtime 1\.23 for GatherBlockQuantized, and --runtime-min is 1\.20"
    ):
        check_requirements(path, RuntimeTarget(release="1.20"))
