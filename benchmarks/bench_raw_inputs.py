"""Vocabularies inside an ONNX file: its size, the time to load it, and the time of one lookup.

For 10^4 to 10^6 keys, integers and strings such as `user123456789`: the file as `--raw-inputs` writes it, with the keys as lists
(ai.onnx.ml 2), and the same with tensors (ai.onnx.ml 4). Load times are medians over fresh processes, in turns; a lookup is a request of
one known key, in turns, one thread. Prints a table, and JSON with the machine as the last line.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from recprune_export.derived.raw_inputs.build_graph import add_raw_inputs
from recprune_export.derived.raw_inputs.raw_input import RawIds
from recprune_export.environment import environment
from recprune_export.onnx.runtime import SessionOptions, make_session
from recprune_export.validation import Backend, measure_latency
from recprune_export.validation.latency.load_time import measure_load_times

SIZES = (10_000, 100_000, 1_000_000)
REQUESTS = 64


def write_lists(path: Path, part: RawIds) -> Path:
    """Write a file that answers with the id of its input, as `--raw-inputs` encodes it."""
    ids = helper.make_tensor_value_info(part.name, TensorProto.INT64, ["batch"])
    answer = helper.make_tensor_value_info("id", TensorProto.INT64, ["batch"])
    graph = helper.make_graph([helper.make_node("Identity", [part.name], ["id"])], "ids", [ids], [answer])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    add_raw_inputs(model, (part,))
    onnx.save(model, path)
    return path


def write_tensors(path: Path, lists: Path, dtype: str) -> Path:
    """Write the same file with tensors in the place of the lists."""
    model = onnx.load(lists)
    node = next(node for node in model.graph.node if node.op_type == "LabelEncoder")
    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if dtype == "str":
        keys = helper.make_tensor("keys", TensorProto.STRING, [len(values["keys_strings"])], values["keys_strings"])
    else:
        keys = numpy_helper.from_array(np.array(values["keys_int64s"], dtype=np.int64))
    ids, default = (np.array(values[n], dtype=np.int64).reshape(-1) for n in ("values_int64s", "default_int64"))
    del node.attribute[:]
    tensors = {"keys": keys, "values": numpy_helper.from_array(ids), "default": numpy_helper.from_array(default)}
    node.attribute.extend(helper.make_attribute(f"{name}_tensor", tensor) for name, tensor in tensors.items())
    next(opset for opset in model.opset_import if opset.domain == "ai.onnx.ml").version = 4
    onnx.save(model, path)
    return path


def make_plan(dtype: str, size: int) -> RawIds:
    """Return an input of `size` random keys."""
    numbers = np.unique(np.random.default_rng(0).integers(0, 10**12, size=size + size // 100 + 9))[:size].tolist()
    keys = tuple(numbers) if dtype == "int64" else tuple(f"user{number}" for number in numbers)
    return RawIds("user", dtype, ("batch",), keys, tuple(range(1, size + 1)), 0, 0)


def main() -> None:
    """Measure each kind of key and each size."""
    results = []
    print(f"{'keys':>10} {'dtype':>6} {'form':>8} {'MB':>7} {'load s':>8} {'µs at batch 1':>14}")
    with tempfile.TemporaryDirectory() as scratch:
        for dtype in ("int64", "str"):
            for size in SIZES:
                part = make_plan(dtype, size)
                lists = write_lists(Path(scratch) / "lists.onnx", part)
                files = {"lists": lists, "tensors": write_tensors(Path(scratch) / "tensors.onnx", lists, dtype)}
                loads = measure_load_times(files, SessionOptions())
                sessions = {name: make_session(path, 1) for name, path in files.items()}
                chosen = np.array(part.keys)[np.random.default_rng(1).integers(0, size, REQUESTS)]
                requests = {1: [{"user": chosen[i : i + 1]} for i in range(REQUESTS)]}
                backends = [
                    Backend(name, lambda request, session=session: session.run(None, request))  # type: ignore[misc]
                    for name, session in sessions.items()
                ]
                times = measure_latency(backends, requests, threads=1, seconds=1.0, cold=False).samples[1]
                for name, path in files.items():
                    megabytes, micros = path.stat().st_size / 1e6, float(np.median(times[name])) * 1e3
                    seconds = loads[name] / 1e3
                    print(f"{size:>10,} {dtype:>6} {name:>8} {megabytes:>7.2f} {seconds:>8.3f} {micros:>14.1f}")
                    results.append({
                        "keys": size, "dtype": dtype, "form": name, "megabytes": megabytes, "load_seconds": seconds,
                        "microseconds": micros,
                    })  # fmt: skip
    print(json.dumps({"benchmark": "raw inputs", "threads": 1, "environment": environment(), "results": results}))


if __name__ == "__main__":
    main()
