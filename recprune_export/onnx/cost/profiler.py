"""Where a request spends its time, by ONNX Runtime's own profiler, beside what each node would have to take."""

import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from recprune_export.codec import ToDictMixin
from recprune_export.errors import ExportError
from recprune_export.onnx.cost.estimate import NodeCost, estimate_cost_with_shapes
from recprune_export.onnx.cost.machine import Machine
from recprune_export.onnx.cost.weightless_model import Shapes
from recprune_export.onnx.runtime.session import SessionOptions, first_line, load_session, run

WARM_UP = 5  # requests
SECONDS = 2.0
FEWEST, MOST = 10, 2000  # requests
LARGEST = 1 << 30  # bytes of a file in one piece
FASTEST_FRACTION = 0.8  # of the times of a node; the longest are what the machine did besides

_END = "_kernel_time"


@dataclass(frozen=True)
class NodeTime:
    """One node of the graph that ONNX Runtime made of the file. Times in milliseconds; `share` of all nodes' time."""

    name: str
    operator: str
    milliseconds: float
    share: float
    floor: float


@dataclass(frozen=True)
class Profile(ToDictMixin):
    """Nodes, the slowest first. `format_milliseconds`: all nodes together; `floor`: what no runtime can go below."""

    batch: int
    threads: int
    requests: int
    milliseconds: float
    floor: float
    nodes: tuple[NodeTime, ...]


def profile_model(path: Path, request: Mapping[str, np.ndarray], batch: int, machine: Machine) -> Profile:
    """Answer a request again and again with the profiler on; `machine` says with how many threads.

    The nodes are those that run: ONNX Runtime joins a linear layer and its activation, for example. Raises `ExportError`
    where it cannot load the file.
    """
    with tempfile.TemporaryDirectory() as scratch:
        optimised = Path(scratch) / "optimised.onnx"
        events, requests = _events(_with_names(path, Path(scratch)), request, machine.threads, optimised)
        model = onnx.load(optimised, load_external_data=False)
    times = _times(events)
    cost = estimate_cost_with_shapes(
        model, {**_shapes(model, events), **{n: a.shape for n, a in request.items()}}, batch, machine
    )
    known = {node.name: node for node in cost.nodes}
    total = sum(times.values())
    nodes = [_node(name, milliseconds, total, known) for name, milliseconds in times.items()]
    return Profile(
        batch=batch,
        threads=machine.threads,
        requests=requests,
        milliseconds=total,
        floor=cost.floor * 1e3,
        nodes=tuple(sorted(nodes, key=lambda node: -node.milliseconds)),
    )


def _with_names(path: Path, scratch: Path) -> Path:
    """The file itself where each node has a name of its own, by which its times are told apart; else a copy that does."""
    model = onnx.load(path, load_external_data=False)
    names = [node.name for node in model.graph.node]
    if all(names) and len(set(names)) == len(names):
        return path
    model = onnx.load(path)
    for position, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{position}"
    onnx.save(model, scratch / "named.onnx", save_as_external_data=model.ByteSize() > LARGEST)
    return scratch / "named.onnx"


def _events(
    path: Path, request: Mapping[str, np.ndarray], threads: int, optimised: Path
) -> tuple[list[Mapping[str, Any]], int]:
    options = SessionOptions(threads=threads).to_onnxruntime()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(optimised)
    options.enable_profiling = True
    options.profile_file_prefix = str(optimised.with_suffix(""))
    session = load_session(str(path), options, str(path))
    deadline, requests = time.perf_counter() + SECONDS, 0
    try:
        while requests < FEWEST + WARM_UP or (requests < MOST and time.perf_counter() < deadline):
            run(session, request)
            requests += 1
    except Exception as error:  # onnxruntime's classes have no common base
        raise ExportError(f"ONNX Runtime cannot run {path} on this request: {first_line(error)}") from error
    events = json.loads(Path(session.end_profiling()).read_text())
    return [event for event in events if event.get("cat") == "Node" and event["name"].endswith(_END)], requests


def _times(events: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean milliseconds by node, without the first requests and the longest times."""
    by_node: dict[str, list[float]] = defaultdict(list)
    for event in events:
        by_node[event["name"].removesuffix(_END)].append(event["dur"] / 1e3)
    warm = {name: sorted(times[WARM_UP:]) for name, times in by_node.items()}
    return {name: float(np.mean(times[: max(1, int(FASTEST_FRACTION * len(times)))])) for name, times in warm.items()}


def _shapes(model: onnx.ModelProto, events: Sequence[Mapping[str, Any]]) -> Shapes:
    """Shapes of weights, from the file, and of what is computed, as the profiler saw it."""
    made = {event["name"].removesuffix(_END): event["args"].get("output_type_shape", []) for event in events}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        for name, kinds in zip(node.output, made.get(node.name, []), strict=False):
            shapes[name] = tuple(next(iter(kinds.values())))
    return shapes


def _node(name: str, milliseconds: float, total: float, known: Mapping[str, NodeCost]) -> NodeTime:
    cost = known.get(name)
    share = milliseconds / total if total else 0.0
    operator, floor = ("?", 0.0) if cost is None else (cost.operator, cost.floor * 1e3)
    return NodeTime(name, operator, milliseconds, share, floor)
