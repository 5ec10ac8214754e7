"""Small ONNX files of the kinds that ONNX Runtime runs, and that no exporter of ours writes."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
Nodes = Sequence[onnx.NodeProto]


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def model(
    nodes: Nodes,
    inputs: dict[str, tuple[int, Sequence[int | str | None] | None]],
    outputs: dict[str, tuple[int, Sequence[int | str | None] | None]],
    weights: dict[str, np.ndarray] | None = None,
    *,
    opset: int = 20,
    domains: Sequence[tuple[str, int]] = (),
    ir_version: int = 10,
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "odd",
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [helper.make_tensor_value_info(name, *spec) for name, spec in outputs.items()],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(*domain) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=list(functions))


def linear(**changes: Any) -> onnx.ModelProto:
    """`y = x @ w`, with a batch."""
    return model(
        [node("MatMul", "x w", "y")],
        {"x": (FLOAT, ["n", 3])},
        {"y": (FLOAT, ["n", 2])},
        {"w": np.ones((3, 2), np.float32)},
        **changes,
    )


def inner(name: str, nodes: Nodes, inputs: Sequence[Any], outputs: Sequence[Any], *weights: Any) -> onnx.GraphProto:
    return helper.make_graph(list(nodes), name, list(inputs), list(outputs), list(weights))


def make_if() -> onnx.ModelProto:
    out = [helper.make_tensor_value_info("r", FLOAT, None)]
    table = numpy_helper.from_array(np.ones((3, 2), np.float32), "inner_w")
    then = inner("then", [node("MatMul", "x inner_w", "r")], [], out, table)
    other = inner("else", [node("MatMul", "x w", "r")], [], out)
    nodes = [
        node("ReduceSum", "x", "s", keepdims=0),
        node("Greater", "s zero", "c"),
        helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    weights = {"w": np.ones((3, 2), np.float32), "zero": np.array(0, np.float32)}
    return model(nodes, {"x": (FLOAT, ["n", 3])}, {"y": (FLOAT, ["n", 2])}, weights)


def make_loop() -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    body = inner(
        "body",
        [node("Identity", "go", "go_on"), node("Add", "before before", "after")],
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("before", FLOAT, None)],
        [value("go_on", TensorProto.BOOL, []), value("after", FLOAT, None)],
    )
    nodes = [helper.make_node("Loop", ["three", "yes", "x"], ["y"], body=body)]
    return model(
        nodes, {"x": (FLOAT, ["n", 2])}, {"y": (FLOAT, ["n", 2])}, {"three": np.array(3), "yes": np.array(True)}
    )


def make_scan() -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    body = inner(
        "body",
        [node("Add", "sum row", "total"), node("Identity", "total", "seen")],
        [value("sum", FLOAT, [2]), value("row", FLOAT, [2])],
        [value("total", FLOAT, [2]), value("seen", FLOAT, [2])],
    )
    nodes = [helper.make_node("Scan", ["start", "x"], ["last", "y"], body=body, num_scan_inputs=1)]
    return model(nodes, {"x": (FLOAT, ["n", 2])}, {"y": (FLOAT, ["n", 2])}, {"start": np.zeros(2, np.float32)})


def make_function() -> onnx.ModelProto:
    opsets = [helper.make_opsetid("", 20)]
    twice = helper.make_function("ours", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], opsets)
    return model(
        [helper.make_node("Twice", ["x"], ["y"], domain="ours")],
        {"x": (FLOAT, ["n", 2])},
        {"y": (FLOAT, ["n", 2])},
        domains=[("ours", 1)],
        functions=[twice],
    )


def make_weights_as_inputs() -> onnx.ModelProto:
    made = linear()
    made.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [3, 2]))
    return made


def make_sparse() -> onnx.ModelProto:
    made = linear()
    del made.graph.initializer[:]
    values = numpy_helper.from_array(np.array([1.0, 2.0], np.float32), "w")
    made.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(np.array([0, 3]), "w_indices"), [3, 2])
    )
    return made


def make_cast(dtype: int, **changes: Any) -> Callable[[], onnx.ModelProto]:
    return lambda: model(
        [node("Cast", "x", "y", to=FLOAT)], {"x": (dtype, ["n", 2])}, {"y": (FLOAT, ["n", 2])}, **changes
    )


def make_strings() -> onnx.ModelProto:
    encode = helper.make_node(
        "LabelEncoder",
        ["x"],
        ["i"],
        domain="ai.onnx.ml",
        keys_strings=["a", "b"],
        values_int64s=[1, 2],
        default_int64=0,
    )
    return model(
        [encode, node("Gather", "t i", "y")],
        {"x": (TensorProto.STRING, ["n"])},
        {"y": (FLOAT, ["n", 2])},
        {"t": np.ones((3, 2), np.float32)},
        domains=[("ai.onnx.ml", 2)],
    )


def make_microsoft() -> onnx.ModelProto:
    fused = helper.make_node("FusedMatMul", ["x", "w"], ["y"], domain="com.microsoft", alpha=2.0)
    made = linear(domains=[("com.microsoft", 1)])
    made.graph.node[0].CopyFrom(fused)
    return made


def make_regressor() -> onnx.ModelProto:
    regressor = helper.make_node("LinearRegressor", ["x"], ["y"], domain="ai.onnx.ml", coefficients=[1.0, 2.0, 3.0])
    return model([regressor], {"x": (FLOAT, ["n", 3])}, {"y": (FLOAT, ["n", 1])}, domains=[("ai.onnx.ml", 1)])


def make_no_output_shape() -> onnx.ModelProto:
    made = linear()
    for value in (*made.graph.output,):
        value.type.tensor_type.ClearField("shape")
    made.graph.ClearField("name")
    return made


def make_no_type() -> onnx.ModelProto:
    made = linear()
    made.graph.output[0].ClearField("type")
    return made


def make_without_nodes() -> onnx.ModelProto:
    return model([], {"x": (FLOAT, ["n", 2])}, {"x": (FLOAT, ["n", 2])})


def make_many_symbols() -> onnx.ModelProto:
    nodes = [node("Concat", "a b c", "y", axis=1)]
    inputs = {name: (FLOAT, [axis, 2]) for name, axis in (("a", "batch"), ("b", "N"), ("c", "unk__17"))}
    return model(nodes, inputs, {"y": (FLOAT, ["batch", 6])})


def make_old_opset() -> onnx.ModelProto:
    nodes = [node("MatMul", "x w", "p"), node("Add", "p b", "q"), node("Relu", "q", "y")]
    weights = {"w": np.ones((3, 2), np.float32), "b": np.ones(2, np.float32)}
    made = model(nodes, {"x": (FLOAT, ["n", 3])}, {"y": (FLOAT, ["n", 2])}, weights, opset=7, ir_version=3)
    for name, array in weights.items():  # IR version 3 lists weights among the inputs
        made.graph.input.append(helper.make_tensor_value_info(name, FLOAT, array.shape))
    return made


def make_lookup_in_branch() -> onnx.ModelProto:
    """Ids whose table lies within a branch, where they are looked up."""
    out = [helper.make_tensor_value_info("r", FLOAT, None)]
    then = inner("then", [node("Gather", "t x", "r")], [], out)
    other = inner("else", [node("Gather", "t x", "r")], [], out)
    nodes = [helper.make_node("If", ["yes"], ["y"], then_branch=then, else_branch=other)]
    weights = {"t": np.ones((5, 2), np.float32), "yes": np.array(True)}
    return model(nodes, {"x": (TensorProto.INT64, ["n"])}, {"y": (FLOAT, ["n", 2])}, weights)


def make_optional_operand() -> onnx.ModelProto:
    """An operand that is left out is an empty name."""
    nodes = [node("Clip", "x", "y")]
    nodes[0].input.extend(["", "top"])
    return model(nodes, {"x": (FLOAT, ["n", 2])}, {"y": (FLOAT, ["n", 2])}, {"top": np.array(1, np.float32)})


def make_constants() -> onnx.ModelProto:
    """Constants in every attribute that holds them."""
    nodes = [
        helper.make_node("Constant", [], ["a"], value_float=2.0),
        helper.make_node("Constant", [], ["b"], value_floats=[1.0, 2.0]),
        helper.make_node("Constant", [], ["c"], value_ints=[0]),
        helper.make_node(
            "Constant",
            [],
            ["d"],
            sparse_value=helper.make_sparse_tensor(
                numpy_helper.from_array(np.array([3.0], np.float32), "v"),
                numpy_helper.from_array(np.array([1]), "i"),
                [2],
            ),
        ),
        node("Mul", "x a", "p"),
        node("Add", "p b", "q"),
        node("Add", "q d", "r"),
        node("Squeeze", "r", "y"),
    ]
    return model(nodes, {"x": (FLOAT, ["n", 2])}, {"y": (FLOAT, None)})


ANSWERED: dict[str, Callable[[], onnx.ModelProto]] = {
    "plain": linear,
    "If with weights inside": make_if,
    "ids looked up in a branch": make_lookup_in_branch,
    "Loop": make_loop,
    "Scan": make_scan,
    "function": make_function,
    "weights as inputs": make_weights_as_inputs,
    "sparse weights": make_sparse,
    "no batch": lambda: model([node("Relu", "x", "y")], {"x": (FLOAT, [4])}, {"y": (FLOAT, [4])}),
    "fixed batch of one": lambda: model([node("Relu", "x", "y")], {"x": (FLOAT, [1, 4])}, {"y": (FLOAT, [1, 4])}),
    "scalar": lambda: model([node("Relu", "x", "y")], {"x": (FLOAT, [])}, {"y": (FLOAT, [])}),
    "scalar beside a batch": lambda: model(
        [node("Mul", "x k", "y")], {"k": (FLOAT, []), "x": (FLOAT, ["n", 2])}, {"y": (FLOAT, ["n", 2])}
    ),
    "float16": make_cast(TensorProto.FLOAT16),
    "double": make_cast(TensorProto.DOUBLE),
    "uint8": make_cast(TensorProto.UINT8),
    "int32": make_cast(TensorProto.INT32),
    "bool": make_cast(TensorProto.BOOL),
    "many symbols": make_many_symbols,
    "opset 7": make_old_opset,
    **{f"opset {opset}": lambda opset=opset: linear(opset=opset) for opset in (9, 11, 13, 15, 17, 19, 21, 22, 23, 24)},
    "com.microsoft": make_microsoft,
    "ai.onnx.ml": make_regressor,
    "output without a shape": make_no_output_shape,
    "output without a type": make_no_type,
    "output is the input": lambda: model(
        [node("Identity", "x", "y")], {"x": (FLOAT, ["n", 2])}, {"x": (FLOAT, ["n", 2]), "y": (FLOAT, ["n", 2])}
    ),
    "output is a weight": lambda: model(
        [node("Relu", "x", "y")],
        {"x": (FLOAT, ["n", 2])},
        {"y": (FLOAT, ["n", 2]), "w": (FLOAT, [2])},
        {"w": np.ones(2, np.float32)},
    ),
    "empty names of optional inputs": make_optional_operand,
    "constants of every kind": make_constants,
    "names of other alphabets": lambda: model(
        [node("Relu", "größe/漢", "::y")], {"größe/漢": (FLOAT, ["n", 2])}, {"::y": (FLOAT, ["n", 2])}
    ),
    "an empty weight": lambda: model(
        [node("Concat", "x w", "y", axis=1)],
        {"x": (FLOAT, [1, 2])},
        {"y": (FLOAT, [1, 2])},
        {"w": np.zeros((1, 0), np.float32)},
    ),
}


def make_sequence() -> onnx.ModelProto:
    made = linear()
    sequence = helper.make_tensor_sequence_value_info("x", FLOAT, None)
    made.graph.input[0].CopyFrom(sequence)
    made.graph.node.insert(0, node("ConcatFromSequence", "x", "joined", axis=0))
    made.graph.node[1].input[0] = "joined"
    return made


def make_optional() -> onnx.ModelProto:
    made = linear()
    tensor = helper.make_tensor_type_proto(FLOAT, ["n", 3])
    made.graph.input[0].CopyFrom(helper.make_value_info("x", helper.make_optional_type_proto(tensor)))
    made.graph.node.insert(0, node("OptionalGetElement", "x", "present"))
    made.graph.node[1].input[0] = "present"
    return made


def make_sequence_output() -> onnx.ModelProto:
    made = model([node("SequenceConstruct", "x", "y")], {"x": (FLOAT, ["n", 2])}, {"y": (FLOAT, None)})
    made.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", FLOAT, None))
    return made


def make_map_output() -> onnx.ModelProto:
    zipped = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_strings=["a", "b"])
    made = model([zipped], {"x": (FLOAT, ["n", 2])}, {"y": (FLOAT, None)}, domains=[("ai.onnx.ml", 1)])
    made.graph.output[0].ClearField("type")
    element = made.graph.output[0].type.sequence_type.elem_type.map_type
    element.key_type = TensorProto.STRING
    element.value_type.tensor_type.elem_type = FLOAT
    return made


def make_duplicate_outputs() -> onnx.ModelProto:
    made = linear()
    made.graph.output.append(made.graph.output[0])
    return made


def make_duplicate_inputs() -> onnx.ModelProto:
    made = linear()
    made.graph.input.append(made.graph.input[0])
    return made


def make_duplicate_weights() -> onnx.ModelProto:
    made = linear()
    made.graph.initializer.append(made.graph.initializer[0])
    return made


def make_undeclared() -> onnx.ModelProto:
    made = linear()
    made.graph.input[0].ClearField("type")
    return made


def make_empty_graph() -> onnx.ModelProto:
    return model([], {}, {})


def make_no_input() -> onnx.ModelProto:
    return model([node("Identity", "w", "y")], {}, {"y": (FLOAT, [2])}, {"w": np.ones(2, np.float32)})


def make_attribute_without_value() -> onnx.ModelProto:
    made = linear()
    made.graph.node[0].attribute.append(AttributeProto(name="value"))
    return made


# What is said of each.
REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "sequence": (make_sequence, "is a sequence"),
    "optional": (make_optional, "is an optional"),
    "sequence as output": (make_sequence_output, "is a sequence"),
    "map as output": (make_map_output, "is a sequence"),
    "strings": (make_strings, "is a string tensor"),
    "bfloat16": (make_cast(TensorProto.BFLOAT16), "takes bfloat16"),
    "float8": (make_cast(TensorProto.FLOAT8E4M3FN), "takes float8"),
    "complex": (
        lambda: model(
            [node("Identity", "x", "y")], {"x": (TensorProto.COMPLEX64, ["n"])}, {"y": (TensorProto.COMPLEX64, ["n"])}
        ),
        "takes complex64",
    ),
    "integers of an unknown range": (
        lambda: model([node("Add", "x x", "y")], {"x": (TensorProto.INT64, ["n"])}, {"y": (TensorProto.INT64, ["n"])}),
        "does not show which integers 'x' accepts",
    ),
    "no node at all": (make_without_nodes, "with an input and an operator"),
    "two free axes": (
        lambda: model([node("Relu", "x", "y")], {"x": (FLOAT, ["n", "m"])}, {"y": (FLOAT, ["n", "m"])}),
        "has an axis of unknown size, 'm'",
    ),
    "no rank": (lambda: model([node("Relu", "x", "y")], {"x": (FLOAT, None)}, {"y": (FLOAT, None)}), "has no shape"),
    "input without a type": (make_undeclared, "has no type"),
    "two outputs of a name": (make_duplicate_outputs, "two outputs named 'y'"),
    "two inputs of a name": (make_duplicate_inputs, "two inputs named 'x'"),
    "two weights of a name": (make_duplicate_weights, "two weights named 'w'"),
    "empty graph": (make_empty_graph, "with an input and an operator"),
    "no input": (make_no_input, "with an input and an operator"),
    "IR version beyond": (lambda: linear(ir_version=99), "IR version"),
    "opset beyond": (lambda: linear(opset=999), "opset"),
    "unknown operator": (
        lambda: model([node("Nonsense", "x", "y")], {"x": (FLOAT, [1])}, {"y": (FLOAT, [1])}),
        "Nonsense",
    ),
    "unknown domain": (
        lambda: model(
            [helper.make_node("Ours", ["x"], ["y"], domain="ours")],
            {"x": (FLOAT, ["n"])},
            {"y": (FLOAT, ["n"])},
            domains=[("ours", 1)],
        ),
        "ours",
    ),
}


def save(made: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(made.SerializeToString())
    return path
