"""Training under torchrun: rows a second, bytes a step and memory of a process by the number of processes, and quality of whole jobs.

    python benchmarks/bench_torchrun.py [--processes 1,2,4] [--rows 10000000] [--batches-per-round 20]
        [--data anime.parquet --label label --ignore rating,episodes,n_genres]

Memory: a DLRM with one table of `--rows` x 32, in shards where there are several processes; anonymous memory of the largest
process after rounds of 1,024 rows a batch with log-uniform ids (weights, and both moments of the rows that were looked up), and with
both moments of all rows written. Rows a second and traffic: the same model, and one with a table of 100,000 rows, which each
process holds whole; wall clock and CPU time of the slowest process, one thread each; bytes that a process sends, counted at the
collectives. Processes on one machine share its memory bandwidth, and more of them than cores take turns.

With `--data`: `train` and the main job with each number of processes, the test AUC of both, and whether the widths of the plans
are equal. Prints tables, and JSON in the last line.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from stage_trace import read_anonymous_memory
from torch.nn import functional as F

from recprune_export.distributed import is_divided, joined_process_group, rank, sharded_tables, traffic, world_size
from recprune_export.distributed.collectives import gather_integers
from recprune_export.distributed.shares import gather_answers
from recprune_export.environment import environment
from recprune_export.progress import quiet
from recprune_export.recommenders import InputSpec, build_recommender
from recprune_export.training import fit
from recprune_export.training.optimizers import make_optimizer

LABEL, BATCH, WIDTH = "click", 1024, 32


def measure(rows: int, steps: int) -> dict[str, Any]:
    """Train on one table of `rows` rows and two short ones; return what was measured, as said above."""
    torch.set_num_threads(1)
    spec = InputSpec({"item": rows, "kind": 1000, "device": 10}, n_numeric=3, labels=(LABEL,))
    before = read_anonymous_memory()
    torch.manual_seed(0)
    with sharded_tables():
        module = build_recommender("dlrm", spec, {"dim": WIDTH})
    optimizer = make_optimizer(module, BATCH, 1e-3)
    rng = np.random.default_rng(0)

    def batches(_: int) -> Any:
        for _ in range(steps):
            ids = {name: (size ** rng.random(BATCH)).astype(np.int64) % size for name, size in spec.categorical.items()}
            batch = {**ids, "numeric": rng.normal(size=(BATCH, 3)).astype(np.float32)}
            label = rng.integers(2, size=BATCH).astype(np.float32)
            share = {name: torch.from_numpy(values[rank() :: world_size()].copy()) for name, values in batch.items()}
            yield share, torch.from_numpy(label[rank() :: world_size()].copy())

    def loss(batch: Any) -> torch.Tensor:
        request, label = batch
        answers, labels = gather_answers([module(request), {LABEL: label}])
        return F.binary_cross_entropy_with_logits(answers[LABEL], labels[LABEL])

    def run() -> tuple[float, float]:
        start, cpu = time.perf_counter(), time.process_time()
        with optimizer.deferred():
            fit(
                module, batches=batches, loss=loss, evaluate=lambda: 0.0, optimizers=[optimizer], epochs=1, patience=1,
                steps_per_epoch=steps, description="",
            )  # fmt: skip
        return time.perf_counter() - start, time.process_time() - cpu

    run()
    sent, calls = traffic.sent_bytes, traffic.calls
    seconds, cpu_seconds = run()
    sent, calls = traffic.sent_bytes - sent, traffic.calls - calls
    trained = read_anonymous_memory() - before
    for state in optimizer._rows.values():  # as after many epochs
        state.moments.add_(0.0)
    full = read_anonymous_memory() - before
    gathered = [gather_integers(value) for value in (sent, trained, full, int(cpu_seconds * 1e6))]
    return {
        "processes": world_size(),
        "rows": rows,
        "wall_rows_a_second": BATCH * steps / seconds,
        "rows_a_cpu_second": BATCH * steps / (max(gathered[3]) / 1e6),
        "sent_bytes_a_step": max(gathered[0]) / steps,
        "collectives_a_step": calls / steps,
        "trained_bytes": max(gathered[1]),
        "full_bytes": max(gathered[2]),
    }


def run_part(rows: int, steps: int) -> None:
    """Measure as one process of torchrun, and print JSON in the first."""
    number, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with quiet():
        if processes == 1:
            print(json.dumps(measure(rows, steps)))
            return
        with joined_process_group(number, processes):
            assert is_divided()
            result = measure(rows, steps)
            if number == 0:
                print(json.dumps(result))


def start_together(processes: int, arguments: list[str]) -> str:
    """Run a script or a module in so many processes of torchrun; return the standard output."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        str(processes),
        *arguments,
    ]
    environment_of_parts = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment_of_parts).stdout


def run_jobs(processes: int, data: str, label: str, ignore: str, folder: Path) -> dict[str, Any]:
    """Train and compress with so many processes; return the AUC of both, and the widths of the plan."""
    model, bundle = folder / f"model{processes}.pt", folder / f"bundle{processes}"
    common = ["--data", data, "--quiet"]
    given = [word for name in ignore.split(",") if name for word in ("--ignore", name)]
    start = time.perf_counter()
    start_together(
        processes,
        ["-m", "recprune_export", "train", *common, "--label", label, *given, "--epochs", "2", "-o", str(model)],
    )
    trained = time.perf_counter()
    # All compress the same model.
    first = folder / "model1.pt"
    start_together(
        processes,
        [
            "-m",
            "recprune_export",
            str(first),
            *common,
            "--sparsity",
            "0.8",
            "--epochs",
            "1",
            "--quick",
            "-o",
            str(bundle),
        ],
    )
    done = time.perf_counter()
    metrics = json.loads((bundle / "manifest.json").read_text())["metrics"]
    plan = json.loads((bundle / "plan.json").read_text())
    return {
        "processes": processes,
        "train_auc": torch.load(model, weights_only=True)["metrics"]["auc"],
        "train_seconds": trained - start,
        "job_auc": metrics["pruned"]["auc"],
        "job_seconds": done - trained,
        "widths": {group["group"]: len(group["keep"]) for group in plan["groups"]},
    }


@click.command()
@click.option("--processes", default="1,2,4")
@click.option("--rows", default=10_000_000, help="Rows of the long table; 0 leaves the measurements of tables out.")
@click.option("--batches-per-round", default=20)
@click.option("--data", default="")
@click.option("--label", default="label")
@click.option("--ignore", default="")
@click.option("--part", is_flag=True, hidden=True)
def main(processes: str, rows: int, batches_per_round: int, data: str, label: str, ignore: str, part: bool) -> None:
    """Measure with each number of processes."""
    if part:
        return run_part(rows, batches_per_round)
    counts = [int(count) for count in processes.split(",")]
    measured = []
    print(
        "| processes | table | rows a second | rows a CPU second of a process | bytes sent a step | collectives a step | "
        "memory, trained | memory, all moments |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for size in (100_000, rows) if rows else ():
        for count in counts:
            words = [__file__, "--part", "--rows", str(size), "--batches-per-round", str(batches_per_round)]
            measured.append(json.loads(start_together(count, words).splitlines()[-1]))
            m = measured[-1]
            print(
                f"| {count} | {size:,} x {WIDTH} | {m['wall_rows_a_second']:,.0f} | {m['rows_a_cpu_second']:,.0f} | "
                f"{m['sent_bytes_a_step']:,.0f} | "
                f"{m['collectives_a_step']:.0f} | {m['trained_bytes'] / 1e6:,.0f} MB | {m['full_bytes'] / 1e6:,.0f} MB |",
                flush=True,
            )
    jobs = []
    if data:
        print("\n| processes | AUC of train | s | AUC after tuning | s | widths as with one |")
        print("|---|---|---|---|---|---|")
        with tempfile.TemporaryDirectory() as folder:
            for count in counts:
                jobs.append(run_jobs(count, data, label, ignore, Path(folder)))
                j = jobs[-1]
                equal = j["widths"] == jobs[0]["widths"]
                print(
                    f"| {count} | {j['train_auc']:.5f} | {j['train_seconds']:.0f} | {j['job_auc']:.5f} | "
                    f"{j['job_seconds']:.0f} | {'yes' if equal else 'no'} |",
                    flush=True,
                )
    print(json.dumps({"benchmark": "torchrun", "environment": environment(), "results": measured, "jobs": jobs}))


if __name__ == "__main__":
    main()
