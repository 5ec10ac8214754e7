"""Why calls take turns in groups: what a neighbor in the round does to a call of ONNX Runtime.

    python benchmarks/bench_turns.py BUNDLE [--latency-batch-sizes 1,256] [--rounds 400]

The dense and the pruned file of a bundle (with dense.onnx and model.pt2) answer single calls in random order: alone, and with
the pruned program in PyTorch between them. Then a backend answers 16 calls in a row after PyTorch, and the median is shown by
the position in the row. One thread, one process. Prints both tables, and JSON with the machine as the last line.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch

from recprune_export.bundle import DENSE, MODEL, read_manifest
from recprune_export.environment import environment
from recprune_export.program import Signature, load_program
from recprune_export.validation import (
    DENSE_ONNX,
    PRUNED_ONNX,
    PRUNED_TORCH,
    Backend,
    make_onnxruntime_backend,
    make_torch_backend,
    sample_cycles,
)

POSITIONS = 16


def time_call(backend: Backend, request: dict[str, np.ndarray]) -> float:
    """Return the microseconds of one call."""
    begun = time.perf_counter_ns()
    backend.run(request)
    return (time.perf_counter_ns() - begun) / 1e3


def time_single_calls(
    backends: Sequence[Backend], requests: Sequence[dict[str, np.ndarray]], rounds: int
) -> dict[str, float]:
    """Return the median of single calls by backend, all in random order in each round."""
    rng, times = np.random.default_rng(0), {backend.name: [] for backend in backends}
    prepared = [[backend.prepare(request) for request in requests] for backend in backends]
    for number in range(rounds):
        for position in rng.permutation(len(backends)):
            backend = backends[position]
            times[backend.name].append(time_call(backend, prepared[position][number % len(requests)]))
    return {name: float(np.median(values)) for name, values in times.items()}


def time_positions(
    backend: Backend, neighbor: Backend, requests: Sequence[dict[str, np.ndarray]], rounds: int
) -> list[float]:
    """Return the median of each of the calls in a row that follow a call of `neighbor`."""
    own, other = ([b.prepare(request) for request in requests] for b in (backend, neighbor))
    times = []
    for number in range(max(rounds // POSITIONS, 20)):
        neighbor.run(other[number % len(requests)])
        times.append([time_call(backend, own[(number + k) % len(requests)]) for k in range(POSITIONS)])
    return np.median(times, axis=0).tolist()  # type: ignore[no-any-return]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--latency-batch-sizes", default="1,256", show_default=True)
@click.option("--rounds", default=400, show_default=True)
def main(bundle: Path, latency_batch_sizes: str, rounds: int) -> None:
    """Measure every batch size."""
    torch.set_num_threads(1)
    signature = Signature.from_dict(read_manifest(bundle).signature)
    files = {DENSE_ONNX: bundle / DENSE, PRUNED_ONNX: bundle / MODEL}
    onnx_backends = [make_onnxruntime_backend(name, path, 1) for name, path in files.items()]
    neighbor = make_torch_backend(PRUNED_TORCH, load_program(bundle / "model.pt2").program)
    results = []
    print(f"{'batch':>6} {'in the round':>18} {'dense, µs':>10} {'pruned, µs':>11} {'ratio':>6}")
    sizes = [int(size) for size in latency_batch_sizes.split(",")]
    for batch, requests in sample_cycles(signature, sizes, seed=0).items():
        for round_name, backends in (("ONNX alone", onnx_backends), ("with PyTorch", [*onnx_backends, neighbor])):
            medians = time_single_calls(backends, requests, rounds)
            dense, pruned = medians[DENSE_ONNX], medians[PRUNED_ONNX]
            print(f"{batch:>6} {round_name:>18} {dense:>10.1f} {pruned:>11.1f} {dense / pruned:>6.2f}", flush=True)
            results.append({"batch": batch, "round": round_name, "microseconds": medians})
        for backend in onnx_backends:
            positions = time_positions(backend, neighbor, requests, 4 * rounds)
            row = " ".join(f"{value:.1f}" for value in positions)
            print(f"{batch:>6} {backend.name}, by position after PyTorch: {row}", flush=True)
            results.append({"batch": batch, "backend": backend.name, "microseconds_by_position": positions})
    print(json.dumps({"benchmark": "turns", "threads": 1, "environment": environment(), "results": results}))


if __name__ == "__main__":
    main()
