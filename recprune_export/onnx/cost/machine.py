"""How fast the machine is: rates measured in ONNX Runtime, once, and kept in the user's cache directory."""

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
    """Rates of `threads` threads; the best that ONNX Runtime was seen to do.

    `fp32` and `int8`: multiply-adds of matrix products per second. `reads`: bytes per second at which weights are read,
    for working sets of `READ_SIZES` bytes. `node` and `call`: seconds that a node, and a call of a session, take at
    least, whatever they do.
    """

    threads: int
    fp32: float
    int8: float
    reads: tuple[float, ...]
    node: float
    call: float

    def read_rate(self, working_set: int) -> float:
        """Return bytes per second for a working set of so many bytes, between the measured ones by its logarithm."""
        positions = [log(size) for size in READ_SIZES]
        return float(np.interp(log(max(working_set, 1)), positions, self.reads))


# One thread of an AMD EPYC (Zen 4, AVX-512), ONNX Runtime 1.32: for decisions that have to be the same everywhere.
REFERENCE = Machine(threads=1, fp32=53e9, int8=180e9, reads=(90e9, 75e9, 25e9), node=0.25e-6, call=5e-6)


def this_machine(threads: int) -> Machine:
    """Return the figures of this machine, measured where they are not in the cache yet, which takes a second."""
    path, key = cache_directory() / "machine.json", _identity(threads)
    known = _read(path)
    try:
        return Machine.from_dict(known[key])
    except (KeyError, ValueError):
        machine = measure_machine(threads)
        _write(path, {**known, key: machine.to_dict()})
        return machine


def cache_directory() -> Path:
    """Return the directory of what can be computed again: `$XDG_CACHE_HOME/recprune-export`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recprune-export"


def measure_machine(threads: int) -> Machine:
    """Measure, with sessions of ONNX Runtime of `threads` threads."""
    one_row = np.zeros((1, 16), dtype=np.float32)
    call = _fastest(_session(_chain(1), threads), one_row)
    node = (_fastest(_session(_chain(CHAIN), threads), one_row) - call) / (CHAIN - 1)
    products = ROWS * INNER * COLUMNS
    fp32 = products / (_fastest(_session(_product(INNER, COLUMNS), threads), _values(ROWS, INNER)) - call)
    levels = _values(ROWS, INNER).view(np.uint8)[:, :INNER].copy()
    int8 = products / (_fastest(_session(_int8_product(), threads), levels) - call)
    return Machine(
        threads=threads,
        fp32=fp32,
        int8=int8,
        reads=tuple(_read_rate(size, threads, call) for size in READ_SIZES),
        node=max(node, 1e-8),
        call=call,
    )


def _read_rate(size: int, threads: int, call: float) -> float:
    """One row times a matrix of `size` bytes: what it takes is reading the matrix."""
    inner = 1 << ((size // 4).bit_length() // 2)
    columns = size // 4 // inner
    return size / max(_fastest(_session(_product(inner, columns), threads), _values(1, inner)) - call, 1e-9)


def _fastest(run: Callable[[np.ndarray], object], x: np.ndarray) -> float:
    """Return the shortest of many calls, in seconds: what disturbs a call only makes it longer."""
    best, deadline, calls = float("inf"), time.perf_counter() + SECONDS, 0
    while calls < 5 or time.perf_counter() < deadline:
        start = time.perf_counter()
        run(x)
        best = min(best, time.perf_counter() - start)
        calls += 1
    return best


def _session(model: ModelProto, threads: int) -> Callable[[np.ndarray], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})


def _chain(length: int) -> ModelProto:
    names = ["x", *(f"x{i}" for i in range(1, length)), "y"]
    return _model([helper.make_node("Tanh", [a], [b]) for a, b in pairwise(names)], {})


def _product(inner: int, columns: int) -> ModelProto:
    return _model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": _values(inner, columns)})


def _int8_product() -> ModelProto:
    weights = np.random.default_rng(0).integers(-127, 128, size=(INNER, COLUMNS), dtype=np.int8)
    nodes = [helper.make_node("MatMulInteger", ["x", "w"], ["y"])]
    return _model(nodes, {"w": weights}, TensorProto.UINT8, TensorProto.INT32)


def _model(
    nodes: list[NodeProto],
    weights: dict[str, np.ndarray],
    takes: int = TensorProto.FLOAT,
    gives: int = TensorProto.FLOAT,
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "measure",
        [helper.make_tensor_value_info("x", takes, ["rows", "columns"])],
        [helper.make_tensor_value_info("y", gives, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _values(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, columns)).astype(np.float32)


def _identity(threads: int) -> str:
    return f"{read_cpu_name()}, {count_cores()} cores, {threads} threads, ONNX Runtime {version('onnxruntime')}"


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _write(path: Path, values: dict[str, Any]) -> None:
    """A cache that cannot be written costs a second at the next run, no more."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(values, indent=1))
        temporary.replace(path)
    except OSError:
        return
