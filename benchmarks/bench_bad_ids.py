"""Measure the cost of the guards for ids and numbers out of range: each file against the same file without guards, in ONNX Runtime.

    python benchmarks/bench_bad_ids.py [--models dlrm-26] [--seatings 12] [--latency-batch-sizes 1,32] [--seconds 0.2]

Models, random weights, pruned to .7: the DLRM of 26 fields in one matrix of ids (Criteo), the DLRM of eight fields and one
of several values in an input each, the smallest of these (two layers of 64 and 32), and SASRec with a history of 50. One thread is used.
Both files take turns in one process on the same requests. New sessions are created `--seatings` times; the ratio (with guards : without)
has a 95 % interval over the seatings. Prints a table, and JSON as the last line.
"""

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import exp
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from bench_recommenders import CLICKS, HISTORIES, prune
from models import make

from recprune_export.environment import environment
from recprune_export.onnx import count, export_onnx
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.program.requests.input_rules import with_bad_ids
from recprune_export.recommenders import build_recommender
from recprune_export.validation import interval_of_few, make_onnxruntime_backend, sample_cycles
from recprune_export.validation.latency.repeated_sessions import log_ratio, measure_repeated_sessions, typical_time

BATCHES = (1, 32, 256, 1024)
LIMIT = 1e4  # of numbers
LEAST_ROUNDS = 40  # of each file in a seating
GUARDED, PLAIN = "with guards", "without"


@dataclass(frozen=True)
class Files:
    """The two files of one model, and its program."""

    program: Program
    paths: Mapping[str, Path]


def _reference(name: str, spec: Any, **config: Any) -> Program:
    return capture(build_recommender(name, spec, config), (spec.example_request(),))


def _criteo() -> Program:
    model = make("dlrm")
    return capture(model.module, (), dict(model.example))


MODELS: Mapping[str, Callable[[], Program]] = {
    "dlrm-26": _criteo,
    "dlrm-9": partial(_reference, "dlrm", CLICKS),
    "dlrm-9-small": partial(_reference, "dlrm", CLICKS, dim=16, hidden=(64, 32)),
    "sasrec": partial(_reference, "sasrec", HISTORIES),
}


def guarded(program: Program) -> Program:
    """Return the program with the rules that `compress` gives it by default."""
    signature = with_bad_ids(program.signature, "unknown", {"tags": 1})
    inputs = (replace(i, number_limit=LIMIT) if i.dtype == "float32" else i for i in signature.inputs)
    return program.with_signature(replace(signature, inputs=tuple(inputs)))


def export(name: str, folder: Path) -> Files:
    """Write both files of a model."""
    torch.manual_seed(0)
    program = prune(MODELS[name]())
    files = {PLAIN: program, GUARDED: guarded(program)}
    paths = {kind: export_onnx(p, folder / f"{name}-{len(kind)}.onnx").path for kind, p in files.items()}
    return Files(program, paths)


@click.command()
@click.option("--models", default=",".join(MODELS), show_default=True)
@click.option("--seatings", default=12, show_default=True)
@click.option("--latency-batch-sizes", default=",".join(map(str, BATCHES)), show_default=True)
@click.option("--seconds", default=0.2, show_default=True, help="For each batch size and seating.")
def main(models: str, seatings: int, latency_batch_sizes: str, seconds: float) -> None:
    """Measure every model and batch size."""
    torch.set_num_threads(1)
    results, sizes = [], tuple(map(int, latency_batch_sizes.split(",")))
    print(f"{'':>13} {'batch':>6} {'nodes':>9} {'without':>11} {'with guards':>12} {'ratio [95 %]':>24}")
    with tempfile.TemporaryDirectory() as scratch:
        for name in models.split(","):
            files = export(name, Path(scratch))
            nodes = {kind: count(path).nodes for kind, path in files.paths.items()}
            backends = {kind: partial(make_onnxruntime_backend, kind, path, 1) for kind, path in files.paths.items()}
            requests = sample_cycles(files.program.signature, sizes, seed=0)
            sessions = measure_repeated_sessions(
                backends,
                requests,
                count=seatings,
                seconds=seconds,
                rng=np.random.default_rng(0),
                min_rounds=LEAST_ROUNDS,
            )
            for batch in sizes:
                times = {
                    kind: float(np.median([typical_time(seating[batch][kind]) for seating in sessions])) * 1e3
                    for kind in backends
                }
                ratio = interval_of_few(
                    [log_ratio(seating[batch], GUARDED, PLAIN) for seating in sessions], confidence=0.95
                ).apply(exp)
                interval = f"{ratio.estimate:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"
                print(
                    f"{name:>13} {batch:>6} {nodes[PLAIN]:>4}→{nodes[GUARDED]:<4} {times[PLAIN]:>8.1f} µs "
                    f"{times[GUARDED]:>9.1f} µs {interval:>24}",
                    flush=True,
                )
                results.append({
                    "model": name, "batch": batch, "nodes": nodes, "microseconds": times,
                    "ratio": asdict(ratio),
                })  # fmt: skip
    print(json.dumps({
        "benchmark": "bad ids", "threads": 1, "seatings": seatings, "environment": environment(), "results": results
    }))  # fmt: skip


if __name__ == "__main__":
    main()
