"""Seconds of a sweep with one process and with several: of all processes together, by the wall clock, and of the timing alone.

    python benchmarks/bench_search_jobs.py [--jobs 1,2] [--rows 20000] [--epochs 3] [--max-drop DROP]
        [--sparsities 0.3,0.5,0.7,0.8,0.9,0.95] [--byte-fractions 0.3,0.2,0.1,0.07,0.05,0.03]

A DLRM of `train` on generated clicks. Each sweep, and with `--max-drop` each search of it, runs in a fresh process of this tool,
one thread for each of its processes (OMP_NUM_THREADS=1), so that the results can be compared: trials of a sparsity have to be
the same but for times. Bits are chosen by times as well, so files in fewer bits may differ from run to run. CPU seconds and the
largest resident memory are those of the kernel, children included. On a busy machine the wall clock counts what others do; the
CPU seconds do not. Prints a table, and JSON in the last line.
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

from recprune_export.data import SchemaOverrides, generate_clicks
from recprune_export.environment import environment
from recprune_export.training import train

TIMES = ("milliseconds", "speedup")


def run_command(words: list[str]) -> dict[str, float]:
    """Run the command line in a process, and return its wall and CPU seconds and the memory of its largest process."""
    command = [sys.executable, "-m", "recprune_export", *words, "--quiet"]
    with tempfile.TemporaryFile("w+") as errors:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=errors
        )
        # The memory that `getrusage` gives is the most of all children so far, also of those of earlier commands.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(errors.read())
    return {
        "wall_seconds": time.perf_counter() - begun,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "largest_process_bytes": usage.ru_maxrss * 1024,
    }


def forget_times(values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the trials of a sparsity without what a clock measured."""
    return [
        {**trial, "artifact": {name: v for name, v in trial["artifact"].items() if name not in TIMES}}
        for trial in values["trials"]
        if trial["point"]["kind"] == "sparsity"
    ]


def show(result: dict[str, Any]) -> None:
    """Print a line."""
    seconds, megabytes = (result["wall_seconds"], result["cpu_seconds"]), result["largest_process_bytes"] / 1e6
    title = f"{result['command']:<12} {result['jobs']:>4} {result['trials']:>6}"
    print(f"{title} {seconds[0]:>8.1f} {seconds[1]:>8.1f} {megabytes:>10.0f}", flush=True)


@click.command(help=__doc__.splitlines()[0])
@click.option("--jobs", default="1,2", show_default=True)
@click.option("--rows", default=20_000, show_default=True)
@click.option("--epochs", default=3, show_default=True)
@click.option("--max-drop", type=float, help="Search the bytes with it as well.")
@click.option("--sparsities", default="0.3,0.5,0.7,0.8,0.9,0.95", show_default=True)
@click.option("--byte-fractions", default="0.3,0.2,0.1,0.07,0.05,0.03", show_default=True)
def main(jobs: str, rows: int, epochs: int, max_drop: float | None, sparsities: str, byte_fractions: str) -> None:
    """Sweep and search with each number of jobs."""
    results: list[dict[str, Any]] = []
    print(f"{'command':<12} {'jobs':>4} {'trials':>6} {'wall s':>8} {'CPU s':>8} {'largest MB':>10}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, model = folder / "clicks.parquet", folder / "model.pt"
        generate_clicks(data, rows=rows, seed=0)
        train(data, "dlrm", model, SchemaOverrides(labels=("clicked",)), {"dim": 16, "hidden": (256, 128)}, epochs=2)
        shared = [str(model), "--data", str(data), "--epochs", str(epochs), "--latency-batch-sizes", "1,256"]
        for count in (int(word) for word in jobs.split(",")):
            target = folder / f"sweep-{count}"
            points = ["--sparsities", sparsities, "--byte-fractions", byte_fractions]
            figures = run_command(["sweep", *shared, *points, "--quick", "--jobs", str(count), "-o", str(target)])
            swept = json.loads((target / "sweep.json").read_text())
            found = forget_times(swept)
            results.append(
                {"command": "sweep", "jobs": count, "trials": len(swept["trials"]), **figures, "found": found}
            )
            show(results[-1])
            if max_drop is None:
                continue
            target = folder / f"bundle-{count}"
            search = [*shared, "--quick", "--max-drop", str(max_drop), "--undecided", "pass", "--jobs", str(count)]
            figures = run_command([*search, "-o", str(target)])
            notes = json.loads((target / "manifest.json").read_text())["notes"]
            trials = len(list(target.with_name(f"{target.name}.search").glob("*.json")))
            results.append({"command": "--max-drop", "jobs": count, "trials": trials, **figures, "found": notes[0]})
            show(results[-1])
    same = {
        command: len({json.dumps(r["found"], sort_keys=True) for r in results if r["command"] == command}) == 1
        for command in dict.fromkeys(r["command"] for r in results)
    }
    print(f"The same results for all numbers of jobs: {same}")
    for result in results:
        del result["found"]
    where = environment()
    print(json.dumps({"benchmark": "search-jobs", "rows": rows, "epochs": epochs, "max_drop": max_drop, "environment": where, "same": same,
                      "results": results}))  # fmt: skip


if __name__ == "__main__":
    main()
