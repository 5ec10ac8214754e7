"""Latency of the seven reference recommenders at sparsity .7: dense and pruned, in PyTorch and in ONNX Runtime.

Untrained weights, pruned at random: latency does not depend on which channels go. One thread, contestants interleaved
in one process. Prints a table, and JSON as the last line.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from recprune_export.onnx import count, export_onnx
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.pruning import Budget, apply_plan, make_plan, rank_by
from recprune_export.recommenders import RECOMMENDERS, InputSpec, build_recommender
from recprune_export.validation import (
    DENSE_ONNX,
    DENSE_TORCH,
    PRUNED_ONNX,
    PRUNED_TORCH,
    LatencyReport,
    make_onnxruntime_backend,
    make_torch_backend,
    measure_latency,
    sample_cycles,
)

SPARSITY = 0.7
BATCHES = (1, 32, 256)
CLICKS = InputSpec(
    categorical={"user": 50_000, "item": 20_000, **{f"field{i}": 100 for i in range(6)}},
    multi_valued={"tags": 500},
    lengths={"tags": 10},
    n_numeric=8,
    labels=("click",),
)
TWO_TASKS = InputSpec(**{**vars(CLICKS), "labels": ("click", "buy")})
HISTORIES = InputSpec(items=10_000, max_length=50, labels=("next_item",))


def prune(program: Program) -> Program:
    """Return the program at the sparsity of this benchmark."""
    analysis = program.analysis
    generator = torch.Generator().manual_seed(0)
    rankings = rank_by({g.name: torch.rand(g.width, generator=generator) for g in analysis.groups})
    budget = Budget(SPARSITY, SPARSITY)
    return apply_plan(program, make_plan(program, rankings, budget, "random", "uniform"))


def run(name: str, scratch: Path) -> tuple[LatencyReport, dict[str, int]]:
    """Measure one recommender; also return its multiply-adds, dense and pruned."""
    torch.manual_seed(0)
    spec = {"sasrec": HISTORIES, "mmoe": TWO_TASKS}.get(name, CLICKS)
    dense = capture(build_recommender(name, spec, {}), (spec.example_request(),))
    pruned = prune(dense)
    files = {
        "dense": export_onnx(dense, scratch / f"{name}-dense.onnx", rewrites=()).path,
        "pruned": export_onnx(pruned, scratch / f"{name}-pruned.onnx").path,
    }
    contestants = [
        make_torch_backend(DENSE_TORCH, dense),
        make_torch_backend(PRUNED_TORCH, pruned),
        make_onnxruntime_backend(DENSE_ONNX, files["dense"], 1),
        make_onnxruntime_backend(PRUNED_ONNX, files["pruned"], 1),
    ]
    requests = sample_cycles(dense.signature, BATCHES, seed=0)
    return measure_latency(contestants, requests, threads=1, seconds=3.0), {
        kind: count(p).operations for kind, p in files.items()
    }


def main() -> None:
    """Measure all of them."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    print(
        f"{'':>10} {'batch':>6} {'dense torch':>12} {'pruned torch':>13} {'dense ONNX':>11} {'pruned ONNX':>12}  dense torch : pruned ONNX"
    )
    with tempfile.TemporaryDirectory() as scratch:
        for name in RECOMMENDERS:
            report, operations = run(name, Path(scratch))
            for batch in BATCHES:
                times = [report.percentiles(batch, c).p50 for c in (DENSE_TORCH, PRUNED_TORCH, DENSE_ONNX, PRUNED_ONNX)]
                ratio = report.ratio(batch, DENSE_TORCH, PRUNED_ONNX)
                columns = "{:>9.3f} ms {:>10.3f} ms {:>8.3f} ms {:>9.3f} ms".format(*times)
                print(
                    f"{name:>10} {batch:>6} {columns}  {ratio.estimate:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}]",
                    flush=True,
                )
            results[name] = {"operations": operations, **report.to_dict()}
    print(json.dumps({"benchmark": "recommenders", "sparsity": SPARSITY, "threads": 1, "results": results}))


if __name__ == "__main__":
    main()
