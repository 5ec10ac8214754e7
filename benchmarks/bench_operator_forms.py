"""Forms of operators for which the export chooses the faster one: transforms, norms of sums, wide products.

    python benchmarks/bench_operator_forms.py

Prints the median ms of CPU time of a call of each form, interleaved, one thread, and JSON as the last line. The figures of
docs/decisions/fourier-transforms-as-products.md, layer-norms-by-rows.md and wide-products-unpacked.md.
"""

import json
import time
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
from onnx import helper, numpy_helper

from recprune_export.environment import environment

NORM = "LayerNormalization<axis=-1>"
Case = tuple[np.ndarray, Mapping[str, str], Mapping[str, np.ndarray]]  # x, the body of each form, constants


def make_session(head: str, body: str, constants: Mapping[str, np.ndarray]) -> onnxruntime.InferenceSession:
    graph = onnx.parser.parse_graph(f"{head} {{ {body} }}")
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def make_transforms() -> Iterator[tuple[str, Case]]:
    for length in (8, 12, 50, 64, 200, 512, 1024, 2048):
        bins = length // 2 + 1
        constants = {"n": np.array(length), "a": np.array(1), "e": np.array([-1]), "t": draw(2 * bins, length)}
        forms = {"DFT": "u = Unsqueeze(x, e) y = DFT<onesided=1>(u, n, a)", "MatMul": "y = MatMul(t, x)"}
        yield f"transform of {length}, 32 rows of 32 channels", (draw(32, length, 32), forms, constants)


def make_norms() -> Iterator[tuple[str, Case]]:
    for batch, length, width in ((1, 12, 32), (1, 50, 64), (32, 50, 64), (256, 12, 32), (256, 50, 64), (256, 50, 256)):
        constants = {"s": draw(width), "b": draw(width), "r": np.array([-1, width]), "p": np.array([-1, length, width])}
        forms = {
            "three axes": f"z = Relu(x) a = Add(x, z) y = {NORM}(a, s, b)",
            "two axes": f"z = Relu(x) v = Reshape(x, r) w = Reshape(z, r) a = Add(v, w) n = {NORM}(a, s, b) y = Reshape(n, p)",
        }
        yield f"norm of a sum {batch, length, width}", (draw(batch, length, width), forms, constants)


def make_products() -> Iterator[tuple[str, Case]]:
    for inputs, outputs in ((13, 1000), (25, 1000), (64, 1000), (128, 1000), (32, 4000), (16, 256)):
        for batch in (1, 32, 256):
            w, b = draw(inputs, outputs), draw(outputs)
            constants: dict[str, Any] = {
                "w": w, "b": b, "u": w[None], "v": np.concatenate([w, b[None]])[None], "r": np.array([-1, inputs]),
                "q": np.array([-1, 12, outputs]), "k": np.array([0, 0, 0, 0, 0, 1]), "o": np.float32(1),
            }  # fmt: skip
            forms = {
                "MatMul, Add": "m = MatMul(x, w) y = Add(m, b)",
                "Gemm": "f = Reshape(x, r) g = Gemm(f, w, b) y = Reshape(g, q)",
                "three axes, Add": "m = MatMul(x, u) y = Add(m, b)",
                "three axes, Pad": "f = Pad(x, k, o) y = MatMul(f, v)",
            }
            yield f"product {inputs} -> {outputs}, {12 * batch} rows", (draw(batch, 12, inputs), forms, constants)


def measure(case: Case, calls: int = 40) -> dict[str, float]:
    """Return the median ms of CPU time of a call of each form."""
    x, forms, constants = case
    head = f"g (float[{', '.join(map(str, x.shape))}] x) => (float[{', '.join('abcd'[: x.ndim])}] y)"
    request = {"x": onnxruntime.OrtValue.ortvalue_from_numpy(x)}
    sessions = {name: make_session(head, body, constants) for name, body in forms.items()}
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(calls):
        for name, session in sessions.items():
            session.run_with_ort_values(None, request)
            start = time.process_time()
            session.run_with_ort_values(None, request)
            times[name].append(time.process_time() - start)
    return {name: 1e3 * median(found) for name, found in times.items()}


if __name__ == "__main__":
    found = {}
    for title, case in (*make_transforms(), *make_norms(), *make_products()):
        found[title] = measure(case)
        print(f"{title:<44}" + "".join(f"  {name} {of:8.3f}" for name, of in found[title].items()), flush=True)
    print(json.dumps({"milliseconds": found, "environment": environment()}))
