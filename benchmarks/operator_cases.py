"""Single operators: the time of one more node of a kind in ONNX Runtime, and the terms of its estimate.

Each case is a graph with one node and another with `COPIES` of it, all on the same operands; the difference of their times, by
a low percentile of turns that alternate, is the time of the copies, because both graphs include the call and the request. ONNX Runtime
must not remove the copies, whose results nothing reads, so its optimizations are off.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import onnx
import onnx.parser
from onnx import helper, numpy_helper

from recprune_export.onnx import CostTerms, Machine, SessionOptions, estimate_cost, load_session
from recprune_export.validation import Backend, measure_interleaved
from recprune_export.validation.edge_requests import RequestArrays

COPIES = 17
PERCENT = 20  # of the turns: what runs beside only makes them longer
BLOCKS = 5  # parts of the turns, whose differences say how sure a figure is
ROWS = 500  # of a table: those of a request that is repeated stay in the cache, so what a miss takes is not seen


@dataclass(frozen=True)
class Case:
    """`body` is the operator in ONNX's text form; `inputs` are types of ONNX's, with `batch`."""

    body: str
    inputs: Mapping[str, str]
    weights: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Measured:
    """Seconds of one node at one batch size, one figure for each part of the turns, and the terms of its estimate."""

    operator: str
    body: str
    batch: int
    seconds: np.ndarray
    terms: CostTerms


def _floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _whole(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


_X, _CUBE = {"x": "float[batch, 64]"}, {"x": "float[batch, 8, 16]"}
_IDS = {"x": "int64[batch]"}
_FIELDS = {"x": "float[batch, 26, 16]"}
_HEADS = {"x": "float[batch, 50, 2, 32]"}
CASES = (
    Case("Reshape(x, to)", _X, {"to": _whole(-1, 4, 16)}),
    Case("Relu(x)", _X, {}),
    Case("Sigmoid(x)", _X, {}),
    Case("Cast<to=6>(x)", _X, {}),
    Case("Cast<to=1>(x)", {"x": "int64[batch, 16]"}, {}),
    Case("QuantizeLinear(x, s, z)", _X, {"s": np.float32(0.1), "z": np.uint8(128)}),
    Case("Add(x, x)", _X, {}),
    Case("Add(x, w)", _X, {"w": _floats(64)}),
    Case("Mul(x, s)", {**_X, "s": "float[batch, 1]"}, {}),
    Case("Mul(x, s)", {**_CUBE, "s": "float[batch, 1, 16]"}, {}),
    Case("Where(s, x, x)", {**_X, "s": "bool[batch, 64]"}, {}),
    Case("Gather(w, x)", _IDS, {"w": _floats(ROWS, 16)}),
    Case("Gather(w, x)", {"x": "int64[batch, 8]"}, {"w": _floats(ROWS, 16)}),
    Case("Gather<axis=1>(x, w)", _X, {"w": _whole(*range(0, 64, 2))}),
    Case("Gather<axis=0>(x, w)", {"x": "float[64, batch]"}, {"w": _whole(*range(0, 64, 2))}),
    Case("GatherND(x, w)", {"x": "float[8, 8, batch]"}, {"w": np.stack(np.triu_indices(8, 1), 1)}),
    Case("Concat<axis=1>(x, x)", _X, {}),
    Case("Concat<axis=1>(x, x, x, x, x, x, x, x)", {"x": "float[batch, 16]"}, {}),
    Case("Slice(x, a, b, c)", _X, {"a": _whole(16), "b": _whole(48), "c": _whole(1)}),
    Case("Slice(x, a, b, c)", _CUBE, {"a": _whole(2), "b": _whole(6), "c": _whole(1)}),
    Case("Transpose<perm=[1, 0]>(x)", _X, {}),
    Case("Transpose<perm=[0, 2, 1]>(x)", _CUBE, {}),
    Case("Transpose<perm=[0, 2, 1]>(x)", _FIELDS, {}),
    Case("Transpose<perm=[2, 1, 0]>(x)", _CUBE, {}),
    Case("Transpose<perm=[2, 0, 1]>(x)", _CUBE, {}),
    Case("Transpose<perm=[0, 2, 1]>(x)", {"x": "int64[batch, 8, 16]"}, {}),
    Case("Transpose<perm=[1, 0]>(x)", {"x": "int64[batch, 16]"}, {}),
    Case("Transpose<perm=[1, 0, 2]>(x)", _CUBE, {}),
    Case("Transpose<perm=[0, 2, 1, 3]>(x)", _HEADS, {}),
    Case("Transpose<perm=[0, 2, 3, 1]>(x)", _HEADS, {}),
    Case("ReduceSum<keepdims=0>(x, w)", _CUBE, {"w": _whole(2)}),
    Case("ReduceSum<keepdims=0>(x, w)", _CUBE, {"w": _whole(1)}),
    Case("ReduceSum<keepdims=0>(x, w)", _FIELDS, {"w": _whole(1)}),
    Case("ReduceSum<keepdims=0>(x, w)", {"x": "float[batch, 50, 64]"}, {"w": _whole(1)}),
    Case("ReduceSum<keepdims=0>(x, w)", _FIELDS, {"w": _whole(2)}),
    Case("ReduceMean<keepdims=0>(x, w)", _CUBE, {"w": _whole(1)}),
    Case("ReduceMax<keepdims=0>(x, w)", _CUBE, {"w": _whole(1)}),
    Case("ReduceL2<keepdims=0>(x, w)", _CUBE, {"w": _whole(1)}),
    Case("ReduceSum<keepdims=0>(x, w)", _X, {"w": _whole(1)}),
    Case("ReduceMean<keepdims=1>(x, w)", _X, {"w": _whole(1)}),
    Case("Softmax(x)", _X, {}),
    Case("LayerNormalization(x, w, w)", _X, {"w": _floats(64)}),
    Case('Einsum<equation="bij,bkj->bik">(x, x)', _CUBE, {}),
    Case('Einsum<equation="bij,jk->bik">(x, w)', _FIELDS, {"w": _floats(16, 16)}),
    Case("Gemm<transB=1>(x, w, b)", _X, {"w": _floats(64, 64), "b": _floats(64)}),
    Case("Gemm<transB=1>(x, w, b)", {"x": "float[batch, 256]"}, {"w": _floats(256, 256), "b": _floats(256)}),
    Case("MatMul(x, w)", _X, {"w": _floats(64, 64)}),
    Case("MatMulInteger(x, w)", {"x": "uint8[batch, 64]"}, {"w": np.ones((64, 64), np.int8)}),
    Case("MatMulInteger(x, w)", {"x": "uint8[batch, 256]"}, {"w": np.ones((256, 256), np.int8)}),
    Case("MatMul(x, t)", {**_CUBE, "t": "float[batch, 16, 8]"}, {}),
    Case("MatMul(x, t)", {"x": "float[batch, 27, 16]", "t": "float[batch, 16, 27]"}, {}),
    Case("MatMul(w, x)", {"x": "float[8, 32, batch]"}, {"w": _floats(8, 32, 32)}),
)  # fmt: skip


def measure_operators(machine: Machine, batches: Sequence[int], seconds: float, only: str = "") -> Iterator[Measured]:
    """Yield every case at every batch size, with estimates for `machine`, whose one thread runs them."""
    for case in CASES:
        operator = case.body.partition("<")[0].partition("(")[0]
        if only and only.lower() not in operator.lower():
            continue
        one, many = _model(case, 1), _model(case, COPIES)
        contestants = [_contestant("one", one), _contestant("many", many)]
        for batch in batches:
            request = {name: _drawn(kind, batch) for name, kind in case.inputs.items()}
            samples = measure_interleaved(contestants, [request], seconds, np.random.default_rng(0))
            parts = zip(*(np.array_split(samples[name], BLOCKS) for name in ("one", "many")), strict=True)
            differences = [np.percentile(b, PERCENT) - np.percentile(a, PERCENT) for a, b in parts]
            figures = np.maximum(np.array(differences) / 1e3 / (COPIES - 1), 1e-9)
            yield Measured(operator, case.body, batch, figures, _terms(many, batch, machine))


def _model(case: Case, copies: int) -> onnx.ModelProto:
    inputs = ", ".join(f"{kind} {name}" for name, kind in case.inputs.items())
    nodes = " ".join(f"y{i} = {case.body}" for i in range(copies))
    graph = onnx.parser.parse_graph(f"g ({inputs}) => (y) {{ {nodes} }}".replace("(y)", "(float[none] y0)"))
    graph.output[0].type.Clear()
    used = {name for node in graph.node for name in node.input}
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(a), name) for name, a in case.weights.items() if name in used
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def _contestant(name: str, model: onnx.ModelProto) -> Backend:
    import onnxruntime

    options = SessionOptions(threads=1).to_onnxruntime()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = load_session(model.SerializeToString(), options, "the case")
    return Backend(name, partial(_run, session))


def _run(session: object, request: RequestArrays) -> object:
    return session.run(None, request)  # type: ignore[attr-defined]


def _drawn(kind: str, batch: int) -> np.ndarray:
    dtype, _, sizes = kind.removesuffix("]").partition("[")
    shape = [batch if size.strip() == "batch" else int(size) for size in sizes.split(",")]
    rng = np.random.default_rng(batch)
    if dtype in ("int64", "uint8"):
        return rng.integers(0, min(ROWS, 255), shape).astype(dtype)
    return rng.random(shape) < 0.5 if dtype == "bool" else rng.normal(size=shape).astype(np.float32)


def _terms(model: onnx.ModelProto, batch: int, machine: Machine) -> CostTerms:
    """The mean over the nodes."""
    nodes = estimate_cost(model, batch, machine).nodes
    return CostTerms(**{f.name: float(np.mean([getattr(n.terms, f.name) for n in nodes])) for f in fields(CostTerms)})
