"""Lookups of many rows in ONNX Runtime: Gather against the GatherND that `onnx/optimizer/passes/gather_to_gathernd.py` writes.

One thread, contestants interleaved in one process, 26 ids per row of the request. *Fresh*: different ids in each of many requests, as in
real traffic; *repeated*: one request repeatedly, whose rows are in the caches. Prints a table, and JSON with the machine as the last
line.
"""

import json

import numpy as np
import onnx_ir as ir
from onnx import helper, numpy_helper

from recprune_export.environment import environment
from recprune_export.onnx import fill_shapes, gather_to_gathernd, make_in_memory_session
from recprune_export.validation import Backend, count_requests, measure_latency

ROWS, IDS = 260_000, 26
WIDTHS = {np.int8: (7, 19, 64), np.float32: (7, 19, 64)}
BATCHES = (1, 32, 256, 1024)
PERCENT = 20


def contestants(table: np.ndarray) -> list[Backend]:
    """Return both forms of a lookup in `table`, [rows, width]."""
    kind = helper.np_dtype_to_tensor_dtype(table.dtype)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        "lookup",
        [helper.make_tensor_value_info("ids", 7, ["batch", IDS])],
        [helper.make_tensor_value_info("y", kind, ["batch", IDS, table.shape[1]])],
        [numpy_helper.from_array(table, "table")],
    )
    plain = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    fill_shapes(plain)
    overlapped = plain.clone()
    assert gather_to_gathernd(overlapped) == 1
    runs = {"Gather": make_in_memory_session(plain), "GatherND": make_in_memory_session(overlapped)}
    return [Backend(name, lambda request, run=run: run([request["ids"]])) for name, run in runs.items()]  # type: ignore[misc]


def main() -> None:
    """Measure every type, width, and batch size."""
    rng, results = np.random.default_rng(0), []
    print(f"{'row':>14} {'batch':>6} {'ids':>9} {'Gather':>10} {'GatherND':>10} {'ratio of medians [95 %]':>24}")
    for dtype, widths in WIDTHS.items():
        for width in widths:
            both = contestants((rng.normal(size=(ROWS, width)) * 50).astype(dtype))
            fresh = {
                b: [{"ids": rng.integers(0, ROWS, size=(b, IDS))} for _ in range(count_requests(b))] for b in BATCHES
            }
            for ids, requests in (("fresh", fresh), ("repeated", {b: of[:1] for b, of in fresh.items()})):
                report = measure_latency(both, requests, threads=1, seconds=0.5)
                for batch in BATCHES:
                    slow, fast = (np.percentile(report.samples[batch][c.name], PERCENT) * 1e3 for c in both)
                    ratio = report.ratio(batch, "Gather", "GatherND")
                    row = f"{np.dtype(dtype).name} × {width}"
                    told = f"{ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
                    print(f"{row:>14} {batch:>6} {ids:>9} {slow:>7.1f} µs {fast:>7.1f} µs {told:>24}")
                    results.append({
                        "row": row, "batch": batch, "ids": ids, "microseconds": [slow, fast], "ratio": vars(ratio)
                    })  # fmt: skip
    print(json.dumps({
        "benchmark": "lookups", "threads": 1, "percentile": PERCENT, "environment": environment(), "results": results
    }))  # fmt: skip


if __name__ == "__main__":
    main()
