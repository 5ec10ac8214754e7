"""Forms of a guard of ids in ONNX Runtime: the time that each adds to a lookup.

    python benchmarks/bench_guards.py [--latency-batch-sizes 1,32,256,1024] [--seconds 1]

Ids [batch, 26] are looked up in one table of 26 fields of 1,000 rows, one thread, all forms in turns in one process. `offset` maps an id
of a field to its row in the table, `bound` is the number of ids of the field, and `last` is the largest id. Prints the added time, and
JSON with the machine as the last line.
"""

import json

import click
import numpy as np
import onnx_ir as ir
from onnx import helper, numpy_helper, parser

from recprune_export.environment import environment
from recprune_export.onnx import make_in_memory_session
from recprune_export.validation import Backend, count_requests, measure_latency

FIELDS, ROWS, WIDTH = 26, 1000, 16
LOOKUP = "Gather alone"
FORMS = {
    LOOKUP: "rows = Add(ids, offset)",
    "Less, Where": "few = Less(ids, bound) kept = Where(few, ids, zero) rows = Add(kept, offset)",
    "Max, Less, Where": "low = Max(ids, zero) few = Less(low, bound) kept = Where(few, low, zero) rows = Add(kept, offset)",
    "Clip, Mod": "low = Clip(ids, zero, size) kept = Mod(low, size) rows = Add(kept, offset)",
    "Clip, Equal, Where": (
        "low = Clip(ids, minus, size) same = Equal(low, ids) kept = Where(same, ids, zero) rows = Add(kept, offset)"
    ),
    "Clip, Gather": "low = Clip(ids, zero, size) kept = Gather(remap, low) rows = Add(kept, offset)",
    "Max, Min": "low = Max(ids, zero) kept = Min(low, last) rows = Add(kept, offset)",
    "Clip": "kept = Clip(ids, zero, most) rows = Add(kept, offset)",
}


def make_backend(name: str, form: str) -> Backend:
    """Return a backend of the lookup behind one form of the guard."""
    numbers = {
        "offset": np.arange(FIELDS) * ROWS, "bound": np.full(FIELDS, ROWS), "last": np.full(FIELDS, ROWS - 1),
        "remap": np.r_[np.arange(ROWS), 0], "zero": np.array(0), "minus": np.array(-1), "size": np.array(ROWS),
        "most": np.array(ROWS - 1),
    }  # fmt: skip
    text = f"g (int64[batch, {FIELDS}] ids) => (float[batch, {FIELDS}, {WIDTH}] y) {{ {form} y = Gather(table, rows) }}"
    graph = parser.parse_graph(text)
    table = np.random.default_rng(0).normal(size=(FIELDS * ROWS, WIDTH)).astype(np.float32)
    used = {operand for node in graph.node for operand in node.input}
    tensors = {"table": table, **{key: value.astype(np.int64) for key, value in numbers.items() if key in used}}
    graph.initializer.extend(numpy_helper.from_array(value, key) for key, value in tensors.items())
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    run = make_in_memory_session(model)
    return Backend(name, lambda request: run([request["ids"]]))


@click.command()
@click.option("--latency-batch-sizes", default="1,32,256,1024", show_default=True)
@click.option("--seconds", default=1.0, show_default=True)
def main(latency_batch_sizes: str, seconds: float) -> None:
    """Measure every form and batch size."""
    rng, sizes = np.random.default_rng(0), [int(size) for size in latency_batch_sizes.split(",")]
    requests = {b: [{"ids": rng.integers(0, ROWS, size=(b, FIELDS))} for _ in range(count_requests(b))] for b in sizes}
    report = measure_latency([make_backend(*form) for form in FORMS.items()], requests, threads=1, seconds=seconds)
    results = []
    print(f"{'form':>20} " + " ".join(f"{'batch ' + str(b):>28}" for b in sizes))
    for name in FORMS:
        cells = []
        for batch in sizes:
            plain, median = (report.percentiles(batch, form).p50 * 1e3 for form in (LOOKUP, name))
            ratio = report.ratio(batch, name, LOOKUP)
            cells.append(f"{median - plain:+6.1f} µs {ratio.estimate:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]")
            results.append({"form": name, "batch": batch, "microseconds": median, "ratio": vars(ratio)})
        print(f"{name:>20} " + " ".join(f"{cell:>28}" for cell in cells))
    print(json.dumps({"benchmark": "guards", "threads": 1, "environment": environment(), "results": results}))


if __name__ == "__main__":
    main()
