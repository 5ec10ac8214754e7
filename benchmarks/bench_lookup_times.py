"""Times of lookups by the bits of their table, and the constants of `pruning/pruning_constants.py` that are fitted to them.

    python benchmarks/bench_lookup_times.py

One fused table of 5,000 rows, 10 lookups per row of the request, one thread, all forms interleaved, different ids in each of many
requests. For each number of bits, three times are fitted, for a call, a lookup and a number, by weighted least squares on the relative
error. The time of a call is the time above fp32. Prints a table, the constants with the error of the fit, and JSON with the machine.
"""

import json

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from recprune_export.environment import environment
from recprune_export.onnx import fill_shapes
from recprune_export.quantization.quantization_plan import (
    FP16,
    FP32,
    INT2_BY_ROW,
    INT3_BY_ROW,
    INT4_BY_ROW,
    INT8_BY_ROW,
)
from recprune_export.quantization.timing import measure_times
from recprune_export.stored_bits import count_row_bytes

ROWS, IDS = 5_000, 10
BATCHES = (1, 32, 256, 1024)
DIMENSIONS = (4, 6, 8, 10, 16, 32, 64)
FORMS = {FP32: 32, FP16: 16, INT8_BY_ROW: 8, INT4_BY_ROW: 4, INT3_BY_ROW: 3, INT2_BY_ROW: 2}
REQUESTS = 20


def make_lookup(dimensions: int, rng: np.random.Generator) -> ir.Model:
    """Return a graph that looks up rows of a table of float32."""
    table = rng.normal(size=(ROWS, dimensions)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "ids"], ["y"])],
        "lookup",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", IDS])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", IDS, dimensions])],
        [numpy_helper.from_array(table, "table")],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
    fill_shapes(model)
    return model


def needs_slice(dimensions: int, bits: int) -> bool:
    """Return whether the bytes of a row hold more numbers than it has."""
    return bits < 8 and count_row_bytes(dimensions, bits) * 8 != dimensions * bits


def fit(samples: list[tuple[int, int, float]], bits: int) -> tuple[np.ndarray, float]:
    """Return microseconds of a start, of a lookup and of a number in it, and the mean relative error, of (batch, dimensions, µs)."""
    terms = np.array([[1.0, batch * IDS, batch * IDS * dimensions] for batch, dimensions, _ in samples])
    times = np.array([microseconds for *_, microseconds in samples])
    solution = np.linalg.lstsq(terms / times[:, None], np.ones(len(times)), rcond=None)[0]
    return solution, float(np.abs(terms @ solution / times - 1.0).mean())


def main() -> None:
    """Measure, fit and print."""
    rng = np.random.default_rng(0)
    samples: dict[int, list[tuple[int, int, float]]] = {bits: [] for bits in FORMS.values()}
    requests = {
        batch: [{"ids": rng.integers(0, ROWS, size=(batch, IDS))} for _ in range(REQUESTS)] for batch in BATCHES
    }
    print(f"{'dimensions':>10} {'bits':>5} " + " ".join(f"{f'{batch} rows':>10}" for batch in BATCHES) + "  µs")
    for dimensions in DIMENSIONS:
        times = measure_times(make_lookup(dimensions, rng), "table", [f for f in FORMS if f != FP32], requests)
        for form, bits in FORMS.items():
            measured = [times[form][batch] * 1e3 for batch in BATCHES]
            samples[bits] += [(batch, dimensions, t) for batch, t in zip(BATCHES, measured, strict=True)]
            print(f"{dimensions:>10} {bits:>5} " + " ".join(f"{t:>10.1f}" for t in measured))
    fitted = {bits: fit(of_bits, bits) for bits, of_bits in samples.items()}
    base = fitted[32][0][0]
    for bits, ((start, lookup, number), error) in fitted.items():
        print(
            f"{bits:>3} bits: start {start - base:.2f} µs, lookup {lookup * 1e3:.1f} ns, number {number * 1e3:.2f} ns, error {error:.0%}"
        )
    constants = {bits: [start - base, lookup, number] for bits, ((start, lookup, number), _) in fitted.items()}
    print(json.dumps({
        "benchmark": "lookup times", "environment": environment(), "microseconds": constants, "samples": samples
    }))  # fmt: skip


if __name__ == "__main__":
    main()
