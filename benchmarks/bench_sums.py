"""Sums over a middle axis in ONNX Runtime: ReduceSum beside the product that `onnx/optimizer/passes/reduce_sum_to_matmul.py` writes.

One thread, contestants interleaved in one process. Prints a table, and JSON as the last line.
"""

import json

import numpy as np
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from recprune_export.onnx import MAX_SUM_OPERATIONS
from recprune_export.validation import Backend, measure_latency

SHAPES = [(6, 1), (6, 10), (13, 12), (13, 16), (13, 19), (13, 24), (13, 32), (26, 32)]
BATCHES = (1, 32, 256, 1024)


def session(nodes: list[NodeProto], fields: int, dim: int, constants: dict[str, np.ndarray]) -> ort.InferenceSession:
    """Return a session of one input x, [batch, fields, dim], and one output y."""
    graph = helper.make_graph(
        nodes,
        "sum",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", fields, dim])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    model.ir_version = 10
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def contestants(fields: int, dim: int) -> list[Backend]:
    """Return both forms of the sum over the fields."""
    reduce = [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)]
    product = [helper.make_node("Reshape", ["x", "flat"], ["z"]), helper.make_node("MatMul", ["z", "ones"], ["y"])]
    ones = np.tile(np.eye(dim, dtype=np.float32), (fields, 1))
    sessions = {
        "ReduceSum": session(reduce, fields, dim, {"axes": np.array([1])}),
        "product": session(product, fields, dim, {"flat": np.array([-1, fields * dim]), "ones": ones}),
    }
    return [Backend(name, lambda request, s=s: s.run(None, request)) for name, s in sessions.items()]  # type: ignore[misc]


def main() -> None:
    """Measure every shape and batch."""
    results = []
    print(f"{'fields × dim':>14} {'batch':>6} {'ReduceSum':>11} {'product':>9} {'ratio [95 %]':>20}  rewritten")
    for fields, dim in SHAPES:
        requests = {
            batch: [{"x": np.random.default_rng(0).random((batch, fields, dim), dtype=np.float32)}] for batch in BATCHES
        }
        report = measure_latency(contestants(fields, dim), requests, threads=1, seconds=0.5)
        rewritten = fields * dim * dim <= MAX_SUM_OPERATIONS
        for batch in BATCHES:
            slow, fast = (report.percentiles(batch, name).p50 * 1e3 for name in ("ReduceSum", "product"))
            ratio = report.ratio(batch, "ReduceSum", "product")
            interval = f"{ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
            print(
                f"{fields:>9} × {dim:<2} {batch:>6} {slow:>8.1f} µs {fast:>6.1f} µs {interval:>20}  {'yes' if rewritten else 'no'}"
            )
            results.append({"fields": fields, "dim": dim, "batch": batch, "rewritten": rewritten, **vars(ratio)})
    print(json.dumps({"benchmark": "sums", "threads": 1, "ratio": "ReduceSum / product", "results": results}))


if __name__ == "__main__":
    main()
