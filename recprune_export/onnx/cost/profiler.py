"""Profiles of a request by ONNX Runtime's profiler: the time of each node with its floor."""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from recprune_export.codec import ToDictMixin, json_name
from recprune_export.error_text import first_line
from recprune_export.errors import ExportError
from recprune_export.onnx.cost.estimate import NodeCost, estimate_cost_with_shapes
from recprune_export.onnx.cost.machine import Machine
from recprune_export.onnx.cost.shape_inference import Shapes
from recprune_export.onnx.runtime.session import SessionOptions, load_session, run

WARM_UP = 5  # requests
SECONDS = 2.0
MIN_REQUESTS, MAX_REQUESTS = 10, 2000
LARGEST = 1 << 30  # bytes of a file with internal weights
FASTEST_FRACTION = 0.8  # of the times of a node; the longest are disturbances of the machine

_END = "_kernel_time"


@dataclass(frozen=True)
class NodeTime:
    """One node of the graph as optimized by ONNX Runtime. Times in milliseconds; `share` of the time of all nodes."""

    name: str
    operator: str
    milliseconds: float
    share: float = field(metadata=json_name("fraction"))
    floor: float = field(metadata=json_name("floor_milliseconds"))


@dataclass(frozen=True)
class Profile(ToDictMixin):
    """Nodes, the slowest first. `milliseconds`: sum over all nodes; `floor`: the lower bound for any runtime."""

    batch: int = field(metadata=json_name("batch_size"))
    threads: int
    requests: int
    milliseconds: float
    floor: float = field(metadata=json_name("floor_milliseconds"))
    nodes: tuple[NodeTime, ...]


def profile_model(path: Path, request: Mapping[str, np.ndarray], batch: int, machine: Machine) -> Profile:
    """Answer a request repeatedly with the profiler on, with as many threads as `machine` has.

    The nodes are those that run: ONNX Runtime fuses a linear layer and its activation, for example. Raises `ExportError` if it cannot
    load the file.
    """
    with tempfile.TemporaryDirectory() as scratch:
        optimized = Path(scratch) / "optimized.onnx"
        events, requests = _profile(_name_nodes(path, Path(scratch)), request, machine.threads, optimized)
        model = onnx.load(optimized, load_external_data=False)
    times = _average_times(events)
    cost = estimate_cost_with_shapes(
        model, {**_read_shapes(model, events), **{n: a.shape for n, a in request.items()}}, batch, machine
    )
    costs = {node.name: node for node in cost.nodes}
    total = sum(times.values())
    nodes = [_make_node_time(name, milliseconds, total, costs) for name, milliseconds in times.items()]
    return Profile(
        batch=batch,
        threads=machine.threads,
        requests=requests,
        milliseconds=total,
        floor=cost.floor * 1e3,
        nodes=tuple(sorted(nodes, key=lambda node: -node.milliseconds)),
    )


def _name_nodes(path: Path, scratch: Path) -> Path:
    """Return the path if all nodes have unique names, which identify their times; otherwise that of a copy with unique names."""
    model = onnx.load(path, load_external_data=False)
    names = [node.name for node in model.graph.node]
    if all(names) and len(set(names)) == len(names):
        return path
    model = onnx.load(path)
    for position, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{position}"
    onnx.save(model, scratch / "named.onnx", save_as_external_data=model.ByteSize() > LARGEST)
    return scratch / "named.onnx"


def _profile(
    path: Path, request: Mapping[str, np.ndarray], threads: int, optimized: Path
) -> tuple[list[Mapping[str, Any]], int]:
    options = SessionOptions(threads=threads).to_onnxruntime()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(optimized)
    options.enable_profiling = True
    options.profile_file_prefix = str(optimized.with_suffix(""))
    session = load_session(str(path), options, str(path))
    deadline, requests = time.perf_counter() + SECONDS, 0
    try:
        while requests < MIN_REQUESTS + WARM_UP or (requests < MAX_REQUESTS and time.perf_counter() < deadline):
            run(session, request)
            requests += 1
    except Exception as error:  # onnxruntime's classes have no common base
        raise ExportError(f"ONNX Runtime cannot run {path} on this request: {first_line(error)}") from error
    events = json.loads(Path(session.end_profiling()).read_text())
    return [event for event in events if event.get("cat") == "Node" and event["name"].endswith(_END)], requests


def _average_times(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the mean milliseconds by node, without the first requests and the longest times."""
    by_node: dict[str, list[float]] = defaultdict(list)
    for event in events:
        by_node[event["name"].removesuffix(_END)].append(event["dur"] / 1e3)
    warm = {name: sorted(times[WARM_UP:]) for name, times in by_node.items()}
    return {name: float(np.mean(times[: max(1, int(FASTEST_FRACTION * len(times)))])) for name, times in warm.items()}


def _read_shapes(model: onnx.ModelProto, events: Sequence[Mapping[str, Any]]) -> Shapes:
    """Return the shapes of weights, from the file, and of computed values, from the profile."""
    output_shapes = {event["name"].removesuffix(_END): event["args"].get("output_type_shape", []) for event in events}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        for name, shape_by_type in zip(node.output, output_shapes.get(node.name, []), strict=False):
            shapes[name] = tuple(next(iter(shape_by_type.values())))
    return shapes


def _make_node_time(name: str, milliseconds: float, total: float, costs: Mapping[str, NodeCost]) -> NodeTime:
    cost = costs.get(name)
    share = milliseconds / total if total else 0.0
    operator, floor = ("?", 0.0) if cost is None else (cost.operator, cost.floor * 1e3)
    return NodeTime(name, operator, milliseconds, share, floor)
