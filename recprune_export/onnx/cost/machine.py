"""Rates of the machine, measured once in ONNX Runtime and stored in the user's cache directory."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from recprune_export.codec import DictMixin
from recprune_export.environment import count_cores, read_cpu_name

ROWS, INNER, COLUMNS = 252, 512, 512  # of the product that measures the rate; whole blocks of MLAS's kernels
CHAIN = 64  # nodes
READ_SIZES = (1 << 19, 1 << 22, 1 << 26)  # bytes: in the second-level cache, in the third, in memory
SECONDS = 0.15  # for each figure


@dataclass(frozen=True)
class Machine(DictMixin):
    """The best measured rates of ONNX Runtime with `threads` threads.

    `fp32` and `int8`: multiply-adds of matrix products per second. `reads`: bytes per second at which weights are read,
    for working sets of `READ_SIZES` bytes. `node` and `call`: seconds that any node, and any call of a session, take at
    least.
    """

    threads: int
    fp32: float
    int8: float
    reads: tuple[float, ...]
    node: float
    call: float

    def read_rate(self, working_set: int) -> float:
        """Return bytes per second for a working set in bytes, interpolated between measurements in its logarithm."""
        positions = [log(size) for size in READ_SIZES]
        return float(np.interp(log(max(working_set, 1)), positions, self.reads))


# One thread of an AMD EPYC (Zen 4, AVX-512), ONNX Runtime 1.32: for decisions that must not depend on the machine.
REFERENCE = Machine(threads=1, fp32=53e9, int8=180e9, reads=(90e9, 75e9, 25e9), node=0.25e-6, call=5e-6)


def this_machine(threads: int) -> Machine:
    """Return the rates of this machine; without an entry in the cache they are measured, which takes a second."""
    directory, key = cache_directory(), _describe_machine(threads)
    if directory is None:
        return measure_machine(threads)
    path = directory / "machine.json"
    known = _read_cache(path)
    try:
        return Machine.from_dict(known[key])
    except (KeyError, ValueError):
        machine = measure_machine(threads)
        _write_cache(path, {**known, key: machine.to_dict()})
        return machine


def cache_directory() -> Path | None:
    """Return the directory of cached results, `$XDG_CACHE_HOME/recprune-export`; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recprune-export"
    except RuntimeError:
        return None


def measure_machine(threads: int) -> Machine:
    """Measure the rates of this machine in ONNX Runtime sessions with `threads` threads."""
    one_row = np.zeros((1, 16), dtype=np.float32)
    call = _time_fastest(_make_session(_make_chain(1), threads), one_row)
    node = (_time_fastest(_make_session(_make_chain(CHAIN), threads), one_row) - call) / (CHAIN - 1)
    products = ROWS * INNER * COLUMNS
    fp32 = products / (
        _time_fastest(_make_session(_make_product(INNER, COLUMNS), threads), _make_values(ROWS, INNER)) - call
    )
    levels = _make_values(ROWS, INNER).view(np.uint8)[:, :INNER].copy()
    int8 = products / (_time_fastest(_make_session(_make_int8_product(), threads), levels) - call)
    return Machine(
        threads=threads,
        fp32=fp32,
        int8=int8,
        reads=tuple(_measure_bandwidth(size, threads, call) for size in READ_SIZES),
        node=max(node, 1e-8),
        call=call,
    )


def _measure_bandwidth(size: int, threads: int, call: float) -> float:
    """Return the bandwidth in a product of one row and a matrix of `size` bytes, whose time is that of reading it."""
    inner = 1 << ((size // 4).bit_length() // 2)
    columns = size // 4 // inner
    return size / max(
        _time_fastest(_make_session(_make_product(inner, columns), threads), _make_values(1, inner)) - call, 1e-9
    )


def _time_fastest(run: Callable[[np.ndarray], object], x: np.ndarray) -> float:
    """Return the shortest time of many calls, in seconds: disturbances can only lengthen a call."""
    best, deadline, calls = float("inf"), time.perf_counter() + SECONDS, 0
    while calls < 5 or time.perf_counter() < deadline:
        start = time.perf_counter()
        run(x)
        best = min(best, time.perf_counter() - start)
        calls += 1
    return best


def _make_session(model: ModelProto, threads: int) -> Callable[[np.ndarray], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})


def _make_chain(length: int) -> ModelProto:
    names = ["x", *(f"x{i}" for i in range(1, length)), "y"]
    return _make_model([helper.make_node("Tanh", [a], [b]) for a, b in pairwise(names)], {})


def _make_product(inner: int, columns: int) -> ModelProto:
    return _make_model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": _make_values(inner, columns)})


def _make_int8_product() -> ModelProto:
    weights = np.random.default_rng(0).integers(-127, 128, size=(INNER, COLUMNS), dtype=np.int8)
    nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
    return _make_model(nodes, {"w": weights}, TensorProto.UINT8, TensorProto.INT32)


def _make_model(
    nodes: list[NodeProto],
    weights: dict[str, np.ndarray],
    input_type: int = TensorProto.FLOAT,
    output_type: int = TensorProto.FLOAT,
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "measure",
        [helper.make_tensor_value_info("x", input_type, ["rows", "columns"])],
        [helper.make_tensor_value_info("y", output_type, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _make_values(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)


def _describe_machine(threads: int) -> str:
    return f"{read_cpu_name()}, {count_cores()} cores, {threads} threads, ONNX Runtime {version('onnxruntime')}"


def _read_cache(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _write_cache(path: Path, values: dict[str, Any]) -> None:
    """Write the cache; a failure is ignored, and costs one more measurement at the next run."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(values, indent=1))
        temporary.replace(path)
    except OSError:
        return
