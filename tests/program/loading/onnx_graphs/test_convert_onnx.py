"""ONNX files of exporters become programs that answer as ONNX Runtime does, and that are pruned like any other."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from recprune_export.errors import CaptureError, DataError, ModelFileError, RecpruneError
from recprune_export.finetuning import run_program
from recprune_export.program import LoadedModel, ModelKind, Program, load_program, sample_request
from recprune_export.program.capture import capture
from recprune_export.pruning import Budget, apply_plan, check_soundness, make_plan, rank_by
from tests.gate.odd_files import ANSWERED, FLOAT, REFUSED, linear, model, node
from tests.gate.odd_files import save as save_odd
from tests.program.loading.onnx_graphs import exported
from tests.program.loading.onnx_graphs.exported import Bags, Histories, dlrm_request, make_dlrm

HISTORY = (torch.randint(0, exported.ITEMS, (4, exported.LENGTH), generator=torch.Generator().manual_seed(2)),)
FIELDS = ["numbers", "ids"]


def assert_answers_as_the_runtime(path: Path, program: Program) -> None:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in program.signature.outputs]
    for rows in (1, 3, 50):
        request = sample_request(program.signature, rows, seed=rows)
        expected = session.run(names, {i.name: request[i.name] for i in session.get_inputs()})
        for name, answer in zip(names, expected, strict=True):
            np.testing.assert_allclose(run_program(program, request)[name], answer, rtol=1e-4, atol=1e-6)


def assert_prunes_soundly(program: Program) -> None:
    groups = program.analysis.groups
    generator = torch.Generator().manual_seed(0)
    scores = {group.name: torch.rand(group.width, generator=generator) for group in groups}
    plan = make_plan(program, rank_by(scores), Budget(0.5, 0.5, 1.0, 1.0), "random", "uniform")
    assert sum(len(group.keep) for group in plan.groups) < sum(group.width for group in groups)
    assert check_soundness(program, plan, apply_plan(program, plan)).error < 1e-9


@pytest.mark.parametrize(
    ("opset", "dynamo"),
    [
        (11, False),
        (17, False),
        (18, True),
        *(pytest.param(*form, marks=pytest.mark.slow) for form in ((13, False), (23, True))),
    ],
)
def test_a_dlrm_of_either_exporter(opset: int, dynamo: bool, tmp_path: Path) -> None:
    module = make_dlrm()
    path = exported.save(module, dlrm_request(), tmp_path / "m.onnx", FIELDS, opset, dynamo=dynamo)
    loaded = load_program(path)
    assert loaded.kind is ModelKind.ONNX
    assert loaded.onnx == path
    numbers, ids = loaded.program.signature.inputs
    assert (numbers.name, ids.name) == ("numbers", "ids")
    assert ids.ids == tuple((0, size - 1) for size in exported.SIZES)
    names = dict(loaded.program.module.named_parameters())
    assert {"bottom.0.weight", "tables.2.weight", "top.4.bias"} <= names.keys()
    for name, weight in names.items():
        if name in module.state_dict() and not dynamo:
            torch.testing.assert_close(weight.detach(), module.state_dict()[name])
    assert_answers_as_the_runtime(path, loaded.program)
    assert_prunes_soundly(loaded.program)


@pytest.mark.parametrize("dynamo", [False, True])
def test_equal_biases_and_gains_tie_no_layers(dynamo: bool, tmp_path: Path) -> None:
    """Exporters store equal vectors once: the biases of zeros of an untrained model, its gains of ones."""
    module = Histories()
    for name, parameter in module.named_parameters():
        if parameter.ndim == 1:
            torch.nn.init.constant_(parameter, float(name.endswith("weight")))
    path = exported.save(module, HISTORY, tmp_path / "m.onnx", ["history"], 18, dynamo=dynamo)
    program = load_program(path).program
    widths = sorted(group.width for group in program.analysis.groups)
    assert widths == sorted(group.width for group in capture(module, HISTORY).analysis.groups)
    assert_answers_as_the_runtime(path, program)
    assert_prunes_soundly(program)


@pytest.mark.parametrize("rows", [1, 4])
def test_a_fixed_batch_is_freed(rows: int, tmp_path: Path) -> None:
    path = exported.save(make_dlrm(), dlrm_request(rows), tmp_path / "m.onnx", FIELDS, free=False)
    loaded = load_program(path)
    assert loaded.onnx is None
    assert f"m.onnx takes {rows} rows at a time" in " ".join(loaded.program.notes)
    request = sample_request(loaded.program.signature, 2 * rows, seed=3)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [
        session.run(None, {n: x[start : start + rows] for n, x in request.items()})[0]
        for start in range(0, 2 * rows, rows)
    ]
    np.testing.assert_allclose(
        run_program(loaded.program, request)["score"], np.concatenate(parts), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize(
    ("kind", "opset", "dynamo"),
    [
        ("attention", 11, False),
        ("attention", 17, False),
        ("GRU", 13, False),
        ("GRU", 18, True),
        ("LSTM", 14, False),
        pytest.param("LSTM", 20, True, marks=pytest.mark.slow),
        ("RNN", 11, False),
    ],
)
def test_models_of_sequences(kind: str, opset: int, dynamo: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = exported.save(Histories(kind), HISTORY, tmp_path / "m.onnx", ["history"], opset, dynamo=dynamo)
    program = load_program(path).program
    assert not any("first state" in axis.reason.text for axis in program.analysis.frozen)
    assert program.signature.inputs[0].ids == ((0, exported.ITEMS - 1),)
    shapes = [tuple(weight.shape) for weight in program.parameters().values()]
    assert shapes.count((exported.ITEMS, exported.DIM)) == 1  # the exporter has written the tied table twice
    assert_answers_as_the_runtime(path, program)
    assert_prunes_soundly(program)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("opset", [11, 13, 17])
def test_the_loop_of_an_embedding_bag_is_a_bag(mode: str, opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    ids, offsets = torch.randint(0, exported.ITEMS, (12,)), torch.tensor([0, 3, 4, 9])
    axes = {"ids": {0: "elements"}, "offsets": {0: "rows"}, "score": {0: "rows"}}
    path = exported.save(Bags(mode), (ids, offsets), tmp_path / "m.onnx", ["ids", "offsets"], opset, axes=axes)
    assert "Loop" in {n.op_type for n in onnx.load(path).graph.node}
    np.savez(tmp_path / "sample.npz", ids=ids.numpy(), offsets=offsets.numpy())
    for inputs in (None, tmp_path / "sample.npz"):
        loaded = load_program(path, inputs=inputs)
        (spec,) = loaded.program.signature.inputs
        assert spec.jagged is not None
        assert (spec.name, spec.jagged.values, spec.jagged.rows) == ("ids", "ids", "offsets")
        assert spec.ids == ((0, exported.ITEMS - 1),)
        assert loaded.onnx is None
        assert "dense.onnx, is therefore the same graph written anew" in " ".join(loaded.program.notes)
    assert_prunes_soundly(loaded.program)


@pytest.mark.parametrize("mode", ["mean", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("sum", "max"))])
@pytest.mark.parametrize("padding", [None, 3])
def test_the_sequence_of_an_embedding_bag_is_a_bag(mode: str, padding: int | None, tmp_path: Path) -> None:
    """PyTorch's newer exporter writes a Loop that inserts the rows of one bag after the other in a sequence."""
    torch.manual_seed(0)
    module = Bags(mode)
    module.table = torch.nn.EmbeddingBag(exported.ITEMS, exported.DIM, mode=mode, padding_idx=padding)
    requests = {
        "offsets": (torch.randint(0, exported.ITEMS, (12,)), torch.tensor([0, 3, 4, 9])),
        "matrix": (torch.randint(0, exported.ITEMS, (4, 3)), None),
    }
    for name, request in requests.items():
        given = tuple(x for x in request if x is not None)
        names = ["ids", "offsets"][: len(given)]
        rows, elements = torch.export.Dim("rows"), torch.export.Dim("elements")
        shapes = ({0: elements}, {0: rows}) if name == "offsets" else ({0: rows}, None)
        path = exported.save(module, request, tmp_path / f"{name}.onnx", names, 18, dynamo=True, shapes=shapes)
        assert "ConcatFromSequence" in {n.op_type for n in onnx.load(path).graph.node}
        program = load_program(path).program
        assert (program.signature.inputs[0].jagged is not None) == (name == "offsets")
        assert_prunes_soundly(program)


def test_an_input_with_one_row_for_all_candidates(tmp_path: Path) -> None:
    """The row of the user, as servers of rankings take it: in the program each candidate has its own."""
    rng = np.random.default_rng(0)
    weights = {
        name: rng.normal(size=size).astype(np.float32)
        for name, size in (("users", (9, 8)), ("items", (7, 8)), ("w", (8, 8)))
    }
    nodes = [
        node("Gather", "users user", "a"),
        node("Gather", "items item", "b"),
        node("MatMul", "a w", "c"),
        node("Mul", "b c", "d"),
        node("ReduceMax", "d", "score", axes=[1], keepdims=0),
    ]
    inputs = {"user": (TensorProto.INT64, [1]), "item": (TensorProto.INT64, ["n"])}
    path = save_odd(model(nodes, inputs, {"score": (FLOAT, ["n"])}, weights, opset=13), tmp_path / "m.onnx")
    loaded = load_program(path)
    assert loaded.onnx is None
    assert "takes one row of user for all rows" in " ".join(loaded.program.notes)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    request = sample_request(loaded.program.signature, 5, seed=0)
    for row, score in enumerate(run_program(loaded.program, request)["score"]):
        (expected,) = session.run(None, {name: values[row : row + 1] for name, values in request.items()})
        np.testing.assert_allclose(score, expected[0], rtol=1e-5)


def test_weights_in_another_file(tmp_path: Path) -> None:
    path = exported.save(make_dlrm(), dlrm_request(), tmp_path / "m.onnx", FIELDS)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert_answers_as_the_runtime(path, load_program(path).program)
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(ModelFileError, match="should have"):
        load_program(path)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelFileError, match="does not exist"):
        load_program(path)


def test_weights_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    made = linear()
    tensor = made.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "../weights.bin")
    tensor.ClearField("raw_data")
    (tmp_path / "weights.bin").write_bytes(b"\0" * 24)
    (tmp_path / "inside").mkdir()
    with pytest.raises(ModelFileError, match="outside its folder"):
        load_program(save_odd(made, tmp_path / "inside" / "m.onnx"))


def test_another_size_that_varies_is_taken_from_the_example(tmp_path: Path) -> None:
    made = model(
        [node("Gather", "t x", "g"), node("ReduceMean", "g", "y", axes=[1], keepdims=0)],
        {"x": (TensorProto.INT64, ["rows", "length"])},
        {"y": (FLOAT, ["rows", 4])},
        {"t": np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)},
        opset=13,
    )
    path = save_odd(made, tmp_path / "m.onnx")
    with pytest.raises(CaptureError, match="'x' has a size beside the batch"):
        load_program(path)
    np.savez(tmp_path / "sample.npz", x=np.ones((2, 5), np.int64))
    program = load_program(path, inputs=tmp_path / "sample.npz").program
    assert program.signature.inputs[0].shape == ("batch", 5)
    assert program.notes == ("Axis 1 of 'x' varies in the file; it is 5 from now on, as in the example request.",)
    np.savez(tmp_path / "other.npz", ids=np.ones((2, 5), np.int64))
    with pytest.raises(DataError, match=r"m.onnx takes \['x'\]"):
        load_program(path, inputs=tmp_path / "other.npz")


def test_half_precision_becomes_float32(tmp_path: Path) -> None:
    weights = {"w": np.random.default_rng(0).normal(size=(3, 2)).astype(np.float16)}
    half = TensorProto.FLOAT16
    made = model([node("MatMul", "x w", "y")], {"x": (half, ["n", 3])}, {"y": (half, ["n", 2])}, weights)
    loaded = load_program(save_odd(made, tmp_path / "m.onnx"))
    assert loaded.onnx is None
    assert loaded.program.signature.inputs[0].dtype == "float32"
    assert "float16" in " ".join(loaded.program.notes)


def make_branches(condition: Any) -> onnx.ModelProto:
    """An If, in whose branches x is doubled or negated, by `condition` of nodes."""
    value = [helper.make_tensor_value_info("r", FLOAT, None)]
    then = helper.make_graph([node("Add", "x x", "r")], "then", [], value)
    other = helper.make_graph([node("Neg", "x", "r")], "else", [], value)
    nodes = [
        *condition,
        helper.make_node("If", ["c"], ["b"], then_branch=then, else_branch=other),
        node("MatMul", "b w", "y"),
    ]
    weights = {"w": np.ones((3, 2), np.float32), "three": np.array(3), "one": np.array(1)}
    return model(nodes, {"x": (FLOAT, ["n", 3])}, {"y": (FLOAT, ["n", 2])}, weights)


def test_an_if_by_sizes_takes_its_branch(tmp_path: Path) -> None:
    by_size = [node("Shape", "x", "s"), node("Gather", "s one", "width"), node("Equal", "width three", "c")]
    path = save_odd(make_branches(by_size), tmp_path / "m.onnx")
    assert_answers_as_the_runtime(path, load_program(path).program)


def test_an_if_by_the_values_of_the_request_is_refused(tmp_path: Path) -> None:
    by_value = [node("ReduceSum", "x", "s", keepdims=0), node("Cast", "s", "c", to=TensorProto.BOOL)]
    with pytest.raises(CaptureError, match=r"If .* decides by the values of the request"):
        load_program(save_odd(make_branches(by_value), tmp_path / "m.onnx"))


def make_calling_itself() -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ours", 1)]
    body = [helper.make_node("Again", ["a"], ["b"], domain="ours")]
    again = helper.make_function("ours", "Again", ["a"], ["b"], body, opsets)
    nodes = [helper.make_node("Again", ["x"], ["y"], domain="ours")]
    inputs = {"x": (FLOAT, ["n", 2])}
    return model(nodes, inputs, {"y": (FLOAT, ["n", 2])}, domains=[("ours", 1)], functions=[again])


def make_circle() -> onnx.ModelProto:
    nodes = [node("Add", "x b", "a"), node("Add", "a x", "b"), node("Add", "a b", "y")]
    return model(nodes, {"x": (FLOAT, ["n", 2])}, {"y": (FLOAT, ["n", 2])})


def make_huge_constant() -> onnx.ModelProto:
    fill = helper.make_node("ConstantOfShape", ["s"], ["z"], value=numpy_helper.from_array(np.ones(1, np.float32)))
    nodes = [fill, node("ReduceSum", "z", "t", keepdims=0), node("Add", "x t", "y")]
    return model(nodes, {"x": (FLOAT, ["n", 2])}, {"y": (FLOAT, ["n", 2])}, {"s": np.array([1 << 20, 1 << 20])})


def make_endless_loop() -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", "go", "on"), node("Add", "v v", "w")],
        "body",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("v", FLOAT, None)],
        [value("on", TensorProto.BOOL, []), value("w", FLOAT, None)],
    )
    nodes = [helper.make_node("Loop", ["", "yes", "x"], ["y"], body=body)]
    return model(nodes, {"x": (FLOAT, ["n", 2])}, {"y": (FLOAT, ["n", 2])}, {"yes": np.array(True)})


def make_unknown() -> onnx.ModelProto:
    return model([node("Det", "x", "y", name="determinant")], {"x": (FLOAT, ["n", 2, 2])}, {"y": (FLOAT, ["n"])})


def make_quantized() -> onnx.ModelProto:
    made = linear(opset=21)
    made.graph.initializer[0].CopyFrom(helper.make_tensor("w", TensorProto.INT4, [3, 2], [1] * 6))
    return made


def make_dequantizing() -> onnx.ModelProto:
    weights = {"w": np.ones((2, 3), np.int8), "scale": np.array(0.1, np.float32)}
    nodes = [node("DequantizeLinear", "w scale", "v"), node("MatMul", "x v", "y")]
    return model(nodes, {"x": (FLOAT, ["n", 2])}, {"y": (FLOAT, ["n", 3])}, weights, opset=13)


def make_scikit_learn() -> onnx.ModelProto:
    scaled = helper.make_node("Scaler", ["x"], ["y"], domain="ai.onnx.ml", offset=[0.0], scale=[2.0])
    return model([scaled], {"x": (FLOAT, ["n", 2])}, {"y": (FLOAT, ["n", 2])}, domains=[("ai.onnx.ml", 3)])


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (
            make_unknown,
            CaptureError,
            "The ONNX operator Det (node 'determinant') is not one that recprune-export reads",
        ),
        (make_calling_itself, ModelFileError, "its function 'Again' calls itself"),
        (make_circle, ModelFileError, "the graph is not acyclic"),
        (
            make_huge_constant,
            CaptureError,
            "ConstantOfShape (which computes 'z') makes a tensor of 1,099,511,627,776 elements",
        ),
        (make_endless_loop, CaptureError, "loops included"),
        (ANSWERED["opset 7"], CaptureError, "uses the operator set 7 of ONNX, and 11 to 24 are read"),
        (ANSWERED["sparse weights"], CaptureError, "stores the weight 'w' as a sparse tensor"),
        (make_quantized, CaptureError, "stores 'w' as int4"),
        (
            make_dequantizing,
            CaptureError,
            "is quantized already, by the operator DequantizeLinear (which computes 'v')",
        ),
        (make_scikit_learn, CaptureError, "is of a model of trees, or another one that is no neural network"),
    ],
)
def test_what_is_not_taken_is_refused_in_one_sentence(
    make: Any, error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error) as raised:
        load_program(save_odd(make(), tmp_path / "m.onnx"))
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def load_or_refuse(path: Path) -> LoadedModel | None:
    """Load a file; None where it is refused, in one sentence that is no fault of ours."""
    told = ""
    try:
        return load_program(path)
    except RecpruneError as error:
        told = str(error)
    assert told
    assert "\n" not in told
    assert "please report" not in told
    return None


@pytest.mark.parametrize("make", [*ANSWERED.values(), *(make for make, _ in REFUSED.values())])
def test_an_odd_file_is_taken_or_refused(make: Any, tmp_path: Path) -> None:
    path = save_odd(make(), tmp_path / "m.onnx")
    found = load_or_refuse(path)
    if found is not None and found.onnx is not None:
        assert_answers_as_the_runtime(path, found.program)


@pytest.mark.parametrize("cut", [1, 20, 60, -1, -40])
def test_a_file_that_is_cut_off_is_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(linear().SerializeToString()[:cut])
    with pytest.raises(ModelFileError):
        load_program(path)


@pytest.mark.parametrize("kind", ["plain", "If with weights inside", "Loop", "ids looked up in a branch"])
def test_a_damaged_file_is_taken_or_refused(kind: str, tmp_path: Path) -> None:
    content = ANSWERED[kind]().SerializeToString()
    random = np.random.default_rng(0)
    for _ in range(150):
        changed = bytearray(content)
        for place in random.integers(0, len(content), 2):
            changed[place] = random.integers(0, 256)
        path = tmp_path / "m.onnx"
        path.write_bytes(changed)
        load_or_refuse(path)
