"""Small graphs of one operator or a few, in the forms in which exporters write them, each with a request."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.gate.odd_files import node

Arrays = dict[str, np.ndarray]
ALL = (11, 13, 18, 24)
RANDOM = np.random.default_rng(7)


@dataclass(frozen=True)
class Form:
    """A graph that computes `y`; axis 0 of each input is the batch."""

    nodes: Sequence[onnx.NodeProto]
    inputs: Arrays
    weights: Arrays = field(default_factory=dict)
    opsets: Sequence[int] = ALL
    domains: Sequence[tuple[str, int]] = ()

    def save(self, path: Path, opset: int, *, rows: str | int = "rows") -> Path:
        """Write the graph as a file."""
        infos = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), [rows, *x.shape[1:]])
            for name, x in self.inputs.items()
        ]
        weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in self.weights.items()]
        output = helper.make_empty_tensor_value_info("y")
        graph = helper.make_graph(list(self.nodes), "form", infos, [output], weights)
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(*domain) for domain in self.domains)]
        onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8 if opset < 21 else 10), path)
        return path


def floats(*shape: int) -> np.ndarray:
    return RANDOM.normal(size=shape).astype(np.float32)


def ids(high: int, *shape: int) -> np.ndarray:
    return RANDOM.integers(0, high, shape).astype(np.int64)


def whole(*numbers: Any) -> np.ndarray:
    return np.array(numbers[0] if len(numbers) == 1 and not np.ndim(numbers[0]) else numbers, dtype=np.int64).reshape(
        () if len(numbers) == 1 and not np.ndim(numbers[0]) else (-1,)
    )


def vector(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def f32(*numbers: float) -> np.ndarray:
    return np.array(numbers[0] if len(numbers) == 1 else numbers, dtype=np.float32)


B = 4
X = {"x": floats(B, 6)}
X3 = {"x": floats(B, 5, 6)}
POSITIVE = {"x": np.abs(floats(B, 6)) + 0.5}
SMALL = {"x": np.clip(floats(B, 6), -0.9, 0.9)}


def unary(operator: str, inputs: Arrays = X, opsets: Sequence[int] = ALL, **attributes: Any) -> Form:
    return Form([node(operator, "x", "y", **attributes)], inputs, opsets=opsets)


def binary(
    operator: str, right: np.ndarray, inputs: Arrays = X, opsets: Sequence[int] = ALL, **attributes: Any
) -> Form:
    return Form([node(operator, "x w", "y", **attributes)], inputs, {"w": right}, opsets)


FORMS: dict[str, Form] = {
    **{
        name: unary(name)
        for name in (
            "Abs",
            "Neg",
            "Ceil",
            "Floor",
            "Round",
            "Sign",
            "Exp",
            "Sigmoid",
            "Tanh",
            "Relu",
            "Softplus",
            "Softsign",
            "Erf",
            "Sin",
            "Cos",
            "Atan",
            "Sinh",
            "Cosh",
            "Identity",
            "Elu",
            "Selu",
            "LeakyRelu",
            "HardSigmoid",
            "ThresholdedRelu",
            "IsNaN",
            "IsInf",
            "Shrink",
        )
    },
    **{name: unary(name, POSITIVE) for name in ("Log", "Sqrt", "Reciprocal")},
    **{name: unary(name, SMALL) for name in ("Asin", "Acos", "Atanh", "Tan")},
    "HardSwish": unary("HardSwish", opsets=(14, 24)),
    "Mish": unary("Mish", opsets=(18, 22)),
    "Gelu": unary("Gelu", opsets=(20, 24)),
    "Gelu by tanh": unary("Gelu", opsets=(20,), approximate="tanh"),
    "Celu": unary("Celu", opsets=(12, 24), alpha=0.7),
    "Elu alpha": unary("Elu", alpha=0.3),
    "LeakyRelu alpha": unary("LeakyRelu", alpha=0.2),
    "Gelu of com.microsoft": Form(
        [node("Gelu", "x", "y", domain="com.microsoft")], X, opsets=(17,), domains=(("com.microsoft", 1),)
    ),
    "QuickGelu": Form(
        [node("QuickGelu", "x", "y", domain="com.microsoft")], X, opsets=(17,), domains=(("com.microsoft", 1),)
    ),
    "FusedMatMul": Form(
        [node("FusedMatMul", "x w", "y", domain="com.microsoft", transB=1, alpha=0.5)],
        X,
        {"w": floats(3, 6)},
        (17,),
        (("com.microsoft", 1),),
    ),
    "Not": Form([node("Greater", "x w", "g"), node("Not", "g", "y")], X, {"w": f32(0.0)}),
    **{
        f"{name} vector": binary(name, floats(6))
        for name in ("Add", "Sub", "Mul", "Div", "Greater", "Less", "Max", "Min")
    },
    **{f"{name} number": binary(name, f32(0.5)) for name in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")},
    **{f"{name} 12": binary(name, floats(6), opsets=(12, 24)) for name in ("GreaterOrEqual", "LessOrEqual")},
    "Sub from a number": Form([node("Sub", "w x", "y")], X, {"w": f32(1.0)}),
    "Div of a number": Form([node("Div", "w x", "y")], POSITIVE, {"w": f32(1.0)}),
    "Add of more axes": binary("Add", floats(1, 1, 6)),
    "Add of one number of more axes": binary("Add", np.full((1, 1, 1), 2.0, np.float32)),
    "Pow 2": binary("Pow", f32(2.0)),
    "Pow half": binary("Pow", f32(0.5), POSITIVE),
    "Pow whole": binary("Pow", whole(3), opsets=(12, 24)),
    "Div whole": binary("Div", vector(-3, 2, 3, 4, 5, -2), {"x": ids(20, B, 6) - 10}),
    "Mod": binary("Mod", vector(-3, 2, 3, 4, 5, -2), {"x": ids(20, B, 6) - 10}),
    "Mod fmod": binary("Mod", floats(6), X, fmod=1),
    "Mod number": binary("Mod", whole(7), {"x": ids(100, B, 6)}),
    "Equal": binary("Equal", whole(3), {"x": ids(5, B, 6)}),
    "And": Form(
        [
            node("Greater", "x a", "g"),
            node("Less", "x b", "h"),
            node("And", "g h", "i"),
            node("Or", "i g", "j"),
            node("Xor", "j h", "y"),
        ],
        X,
        {"a": f32(-0.5), "b": f32(0.5)},
    ),
    "Where number": Form(
        [node("Greater", "x z", "g"), node("Where", "g m x", "y")], X, {"z": f32(0.0), "m": f32(-1e9)}
    ),
    "Where other number": Form(
        [node("Greater", "x z", "g"), node("Where", "g x m", "y")], X, {"z": f32(0.0), "m": f32(-1e9)}
    ),
    "Where numbers": Form(
        [node("Greater", "x z", "g"), node("Where", "g o m", "y")], X, {"z": f32(0.0), "m": f32(0.0), "o": f32(1.0)}
    ),
    "Where of a wider mask": Form(
        [node("Greater", "x z", "g"), node("Where", "g w v", "y")], X, {"z": f32(0.0), "w": floats(1, 6), "v": f32(2.0)}
    ),
    "Clip": binary("Clip", f32(-0.5)),
    "Clip both": Form([node("Clip", "x a b", "y")], X, {"a": f32(-0.5), "b": f32(0.5)}),
    "Clip upper": Form([helper.make_node("Clip", ["x", "", "b"], ["y"])], X, {"b": f32(0.5)}),
    "Clip none": unary("Clip"),
    "PRelu": binary("PRelu", f32(0.3)),
    "PRelu of channels": binary("PRelu", floats(6)),
    "Cast": unary("Cast", to=TensorProto.INT64),
    "Cast to double": unary("Cast", to=TensorProto.DOUBLE),
    "Dropout": unary("Dropout"),
    "Max of three": Form([node("Max", "x a b", "y")], X, {"a": f32(0.1), "b": floats(6)}),
    # views
    "Reshape": binary("Reshape", vector(0, 2, 3)),
    "Reshape -1": binary("Reshape", vector(-1, 2, 3)),
    "Reshape flat": binary("Reshape", vector(-1), X3),
    "Flatten": unary("Flatten", X3),
    "Flatten 2": unary("Flatten", X3, axis=2),
    "Flatten -1": unary("Flatten", X3, axis=-1),
    "Transpose": unary("Transpose", X3, perm=[0, 2, 1]),
    "Transpose all": unary("Transpose", X3),
    "Unsqueeze 11": unary("Unsqueeze", opsets=(11,), axes=[1, 3]),
    "Unsqueeze": binary("Unsqueeze", vector(1, -1), opsets=(13, 24)),
    "Squeeze 11": unary("Squeeze", {"x": floats(B, 1, 6)}, (11,), axes=[1]),
    "Squeeze": binary("Squeeze", vector(1), {"x": floats(B, 1, 6)}, (13, 24)),
    "Squeeze of any": unary("Squeeze", {"x": floats(B, 1, 6)}),
    "Concat": Form([node("Concat", "x x", "y", axis=1)], X),
    "Concat -1": Form([node("Concat", "x x x", "y", axis=-1)], X3),
    "Split 11": Form(
        [node("Split", "x", "a b", axis=1, split=[2, 4]), node("Concat", "b a", "y", axis=1)], X, opsets=(11,)
    ),
    "Split": Form(
        [node("Split", "x s", "a b", axis=1), node("Concat", "b a", "y", axis=1)], X, {"s": vector(2, 4)}, (13, 24)
    ),
    "Split equal": Form([node("Split", "x", "a b", axis=1), node("Sub", "a b", "y")], X, opsets=(11, 13)),
    "Split outputs": Form(
        [node("Split", "x", "a b", axis=1, num_outputs=2), node("Sub", "a b", "y")], X, opsets=(18, 24)
    ),
    "Slice": Form([node("Slice", "x s e a", "y")], X3, {"s": vector(1), "e": vector(4), "a": vector(1)}),
    "Slice of two": Form(
        [node("Slice", "x s e a t", "y")],
        X3,
        {"s": vector(1, 0), "e": vector(1 << 62, -1), "a": vector(1, 2), "t": vector(2, 1)},
    ),
    "Slice backwards": Form(
        [node("Slice", "x s e a t", "y")],
        X3,
        {"s": vector(-1), "e": vector(-(1 << 62)), "a": vector(1), "t": vector(-1)},
    ),
    "Slice backwards by 2": Form(
        [node("Slice", "x s e a t", "y")], X3, {"s": vector(3), "e": vector(0), "a": vector(1), "t": vector(-2)}
    ),
    "Expand": binary("Expand", vector(1, 3, 1, 6), X),
    "Expand fewer": binary("Expand", vector(1), X),
    "Expand by shape": Form(
        [node("Shape", "x", "s"), node("Expand", "w s", "e"), node("Add", "x e", "y")], X, {"w": floats(1, 6)}
    ),
    "Tile": binary("Tile", vector(1, 2)),
    "Tile of one": binary("Tile", vector(1, 3, 1), {"x": floats(B, 1, 6)}),
    "Pad": binary("Pad", vector(0, 1, 0, 2)),
    "Pad number": Form([node("Pad", "x p c", "y")], X3, {"p": vector(0, 2, 0, 0, 0, 1), "c": f32(3.0)}),
    "Trilu": Form([node("Trilu", "x k", "y")], X3, {"k": whole(1)}, (14, 24)),
    "Trilu lower": unary("Trilu", X3, (14, 24), upper=0),
    # lookups
    "Gather rows": Form([node("Gather", "w x", "y")], {"x": ids(9, B)}, {"w": floats(9, 3)}),
    "Gather sequences": Form([node("Gather", "w x", "y")], {"x": ids(9, B, 5)}, {"w": floats(9, 3)}),
    "Gather int32": Form([node("Gather", "w x", "y")], {"x": ids(9, B, 5).astype(np.int32)}, {"w": floats(9, 3)}),
    "Gather of three axes": Form([node("Gather", "w x", "y")], {"x": ids(9, B, 2)}, {"w": floats(9, 3, 2)}),
    "Gather column": binary("Gather", whole(2), axis=1),
    "Gather last column": binary("Gather", whole(-1), axis=1),
    "Gather columns": binary("Gather", vector(3, 1, -1), axis=1),
    "Gather range": binary("Gather", vector(1, 2, 3), axis=1),
    "Gather matrix": binary("Gather", np.array([[0, 2], [1, 1]]), axis=1),
    "Gather of biases": Form([node("Gather", "w x", "y")], {"x": ids(9, B)}, {"w": floats(9)}),
    "GatherElements": binary("GatherElements", np.array([[0, 2, -1]] * B), axis=1),
    "GatherND": Form([node("GatherND", "w x", "y")], {"x": ids(9, B, 1)}, {"w": floats(9, 3)}),
    "GatherND of two": Form([node("GatherND", "w x", "y")], {"x": ids(3, B, 2)}, {"w": floats(9, 3)}),
    "GatherND by row": Form(
        [node("GatherND", "x i", "y", batch_dims=1)], {"x": floats(B, 5, 6), "i": ids(5, B, 1)}, opsets=(12, 24)
    ),
    "OneHot": Form([node("OneHot", "x d v", "y")], {"x": ids(5, B, 2)}, {"d": whole(5), "v": f32(0.0, 1.0)}),
    "OneHot axis": Form(
        [node("OneHot", "x d v", "y", axis=1)], {"x": ids(5, B, 2) - 2}, {"d": vector(5), "v": f32(-1.0, 2.0)}
    ),
    "ScatterElements": Form(
        [node("ScatterElements", "x i u", "y", axis=1)], {**X, "i": ids(6, B, 1), "u": floats(B, 1)}
    ),
    "Compress": Form(
        [node("Compress", "x c", "y", axis=1)], X, {"c": np.array([True, False, True, False, True, True])}
    ),
    # products
    "MatMul": binary("MatMul", floats(6, 3)),
    "MatMul of sequences": binary("MatMul", floats(6, 3), X3),
    "MatMul and Add": Form(
        [node("MatMul", "x w", "m"), node("Add", "m b", "y")], X3, {"w": floats(6, 3), "b": floats(3)}
    ),
    "Add and MatMul": Form(
        [node("MatMul", "x w", "m"), node("Add", "b m", "y")], X, {"w": floats(6, 3), "b": floats(3)}
    ),
    "MatMul of a transposed table": Form(
        [node("Transpose", "w", "t", perm=[1, 0]), node("MatMul", "x t", "y")], X, {"w": floats(3, 6)}
    ),
    "MatMul twice by a table": Form(
        [node("Gather", "w i", "g"), node("MatMul", "g w", "y")], {"i": ids(6, B)}, {"w": floats(6, 6)}
    ),
    "MatMul of two": Form([node("Transpose", "x", "t", perm=[0, 2, 1]), node("MatMul", "x t", "y")], X3),
    "MatMul from the left": Form([node("MatMul", "w x", "y")], X3, {"w": floats(3, 5)}),
    "MatMul with a bias of more axes": Form(
        [node("MatMul", "x w", "m"), node("Add", "m b", "y")], X, {"w": floats(6, 3), "b": floats(1, 1, 3)}
    ),
    "Gemm": Form([node("Gemm", "x w b", "y")], X, {"w": floats(6, 3), "b": floats(3)}),
    "Gemm transposed": Form([node("Gemm", "x w b", "y", transB=1)], X, {"w": floats(3, 6), "b": floats(3)}),
    "Gemm scaled": Form(
        [node("Gemm", "x w b", "y", transB=1, alpha=0.5, beta=2.0)], X, {"w": floats(3, 6), "b": floats(1, 3)}
    ),
    "Gemm without bias": binary("Gemm", floats(6, 3)),
    "Gemm by one number": Form([node("Gemm", "x w b", "y")], X, {"w": floats(6, 3), "b": floats(1)}),
    "Einsum": Form([node("Einsum", "x w", "y", equation="b l d, d k -> b l k")], X3, {"w": floats(6, 2)}, (12, 24)),
    "Conv": Form([node("Conv", "x w b", "y", pads=[1, 1])], X3, {"w": floats(2, 5, 3), "b": floats(2)}),
    "Conv of one side": Form([node("Conv", "x w", "y", pads=[2, 0])], X3, {"w": floats(2, 5, 3)}),
    "Conv same": Form(
        [node("Conv", "x w", "y", auto_pad="SAME_UPPER")], {"x": floats(B, 1, 5, 6)}, {"w": floats(2, 1, 2, 3)}
    ),
    "MaxPool": unary("MaxPool", X3, kernel_shape=[2], strides=[2]),
    "AveragePool": unary("AveragePool", X3, kernel_shape=[3], strides=[1]),
    "GlobalAveragePool": unary("GlobalAveragePool", X3),
    "GlobalMaxPool": unary("GlobalMaxPool", X3),
    # normalizations
    "BatchNormalization": Form(
        [node("BatchNormalization", "x s b m v", "y")],
        X,
        {"s": floats(6), "b": floats(6), "m": floats(6), "v": np.abs(floats(6)) + 0.1},
        (11, 14, 15, 24),
    ),
    "LayerNormalization": Form(
        [node("LayerNormalization", "x s b", "y")], X3, {"s": floats(6), "b": floats(6)}, (17, 24)
    ),
    "LayerNormalization of two axes": Form(
        [node("LayerNormalization", "x s", "y", axis=1, epsilon=1e-3)], X3, {"s": floats(5, 6)}, (17, 24)
    ),
    "RMSNormalization": Form([node("RMSNormalization", "x s", "y")], X3, {"s": floats(6)}, (23, 24)),
    "InstanceNormalization": Form([node("InstanceNormalization", "x s b", "y")], X3, {"s": floats(5), "b": floats(5)}),
    "GroupNormalization": Form(
        [node("GroupNormalization", "x s b", "y", num_groups=2)],
        {"x": floats(B, 4, 3)},
        {"s": floats(4), "b": floats(4)},
        (21, 24),
    ),
    "LpNormalization": unary("LpNormalization", axis=-1, p=2),
    "SkipLayerNormalization": Form(
        [node("SkipLayerNormalization", "x x s b", "y", domain="com.microsoft")],
        X3,
        {"s": floats(6), "b": floats(6)},
        (17,),
        (("com.microsoft", 1),),
    ),
    # reductions
    **{
        f"{name} 11": unary(name, X3, (11, 13), axes=[1])
        for name in (
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSumExp",
            "ReduceProd",
        )
    },
    **{
        f"{name} 18": binary(name, vector(-1), X3, (18, 24), keepdims=0)
        for name in (
            "ReduceMean",
            "ReduceMax",
            "ReduceMin",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSumExp",
            "ReduceProd",
        )
    },
    "ReduceSum 11": unary("ReduceSum", X3, (11,), axes=[1, 2], keepdims=0),
    "ReduceSum 13": binary("ReduceSum", vector(1), X3, (13, 24)),
    "ReduceSum of whole": binary("ReduceSum", vector(1), {"x": ids(9, B, 5).astype(np.int32)}, (13, 24)),
    "Softmax": unary("Softmax", X3, axis=-1),
    "Softmax in the middle": unary("Softmax", X3, axis=1),
    "Softmax of the default axis": unary("Softmax", X3),
    "LogSoftmax": unary("LogSoftmax", X3, axis=2),
    "ArgMax": unary("ArgMax", X3, axis=1, keepdims=0),
    "ArgMin": unary("ArgMin", X3, axis=-1),
    "Hardmax": unary("Hardmax", X3, (13, 24), axis=1),
    "TopK": Form(
        [node("TopK", "x k", "v i", axis=1), node("Cast", "i", "j", to=1), node("Concat", "v j", "y", axis=1)],
        X,
        {"k": vector(3)},
    ),
    "CumSum": binary("CumSum", whole(1)),
    "CumSum reverse": binary("CumSum", whole(1), reverse=1),
    "CumSum exclusive": binary("CumSum", whole(1), exclusive=1),
    "ReverseSequence": Form(
        [node("ReverseSequence", "x l", "y", batch_axis=0, time_axis=1)], {**X3, "l": ids(5, B) + 1}
    ),
    # sequences
    "SplitToSequence": Form(
        [
            node("SplitToSequence", "x", "s", axis=1, keepdims=0),
            node("SequenceAt", "s one", "a"),
            node("SequenceAt", "s last", "b"),
            node("Sub", "a b", "y"),
        ],
        X,
        {"one": whole(1), "last": whole(-1)},
    ),
    "SplitToSequence of sizes": Form(
        [
            node("SplitToSequence", "x n", "s", axis=1),
            node("SequenceAt", "s one", "a"),
            node("SequenceConstruct", "a a", "t"),
            node("ConcatFromSequence", "t", "y", axis=1),
        ],
        X,
        {"n": vector(2, 4), "one": whole(1)},
    ),
    "SplitToSequence of one size": Form(
        [node("SplitToSequence", "x n", "s", axis=1), node("ConcatFromSequence", "s", "y", axis=1, new_axis=1)],
        X,
        {"n": whole(2)},
    ),
    # sizes
    "Reshape by Shape": Form(
        [
            node("Shape", "x", "s"),
            node("Gather", "s z", "b"),
            node("Unsqueeze", "b", "u", axes=[0]),
            node("Concat", "u r", "c", axis=0),
            node("Reshape", "x c", "y"),
        ],
        X,
        {"z": whole(0), "r": vector(3, 2)},
        (11,),
    ),
    "Reshape by Shape 13": Form(
        [
            node("Shape", "x", "s"),
            node("Slice", "s z o", "b"),
            node("Concat", "b r", "c", axis=0),
            node("Reshape", "x c", "y"),
        ],
        X,
        {"z": vector(0), "o": vector(1), "r": vector(3, 2)},
    ),
    "Reshape by Cast of Shape": Form(
        [
            node("Shape", "x", "s"),
            node("Cast", "s", "i", to=TensorProto.INT32),
            node("Slice", "i z o a", "b"),
            node("Concat", "b r", "c", axis=0),
            node("Cast", "c", "k", to=TensorProto.INT64),
            node("Reshape", "x k", "y"),
        ],
        X,
        {"z": vector(0), "o": vector(1), "a": vector(0), "r": np.array([3, 2], np.int32)},
    ),
    "Shape from 15 on": Form(
        [node("Shape", "x", "s", start=0, end=1), node("Concat", "s r", "c", axis=0), node("Reshape", "x c", "y")],
        X,
        {"r": vector(-1, 2)},
        (15, 24),
    ),
    "ConstantOfShape of the batch": Form(
        [
            node("Shape", "x", "s"),
            node("ConstantOfShape", "s", "z", value=numpy_helper.from_array(f32(2.0).reshape(1))),
            node("Add", "x z", "y"),
        ],
        X,
    ),
    "Range of the batch": Form(
        [
            node("Shape", "x", "s"),
            node("Gather", "s z", "b"),
            node("Range", "z b o", "r"),
            node("Cast", "r", "y", to=1),
        ],
        X,
        {"z": whole(0), "o": whole(1)},
    ),
    "Expand by Where": Form(
        [
            node("Shape", "w", "n"),
            node("ConstantOfShape", "n", "o", value=numpy_helper.from_array(vector(1))),
            node("Equal", "e m", "q"),
            node("Where", "q o e", "t"),
            node("Expand", "x t", "y"),
        ],
        {"x": floats(B, 1, 6)},
        {"w": floats(3), "e": vector(-1, 3, -1), "m": vector(-1)},
    ),
    "Mean by Size": Form(
        [
            node("Shape", "x", "s"),
            node("Gather", "s o", "n"),
            node("Cast", "n", "f", to=1),
            node("ReduceSum", "x", "t", axes=[1]),
            node("Div", "t f", "y"),
        ],
        X,
        {"o": whole(1)},
        (11,),
    ),
}
