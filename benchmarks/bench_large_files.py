"""CPU seconds and peak memory of `train`, the main job and `predict` on Parquet files, by their number of rows.

    python benchmarks/bench_large_files.py [--rows 10000000,50000000] [--folder FOLDER]

The rows are those of `bench_streaming.py`: seven fields, one of them with a million values, and three numbers. Each command runs
in a fresh process with one thread and default settings, except for one epoch. Memory is the anonymous memory of the process and its
children, sampled from outside every 20 ms, minus that of a process with the same imports that does nothing. CPU seconds are those of the
kernel, including children. All files are written to `--folder` and removed afterwards. Prints a table, and JSON in the last line.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from bench_streaming import LABEL, write_rows
from process_memory import read_memory_of_tree

from recprune_export.environment import environment

IDLE = "import torch, onnx, onnxruntime, polars, recprune_export.pipeline, time; print(1, flush=True); time.sleep(60)"
VARIABLES = {"OMP_NUM_THREADS": "1"}


def read_idle_memory() -> int:
    """Return the anonymous bytes of a process after the imports."""
    with subprocess.Popen([sys.executable, "-c", IDLE], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        anonymous, _ = read_memory_of_tree(process.pid)
        process.kill()
    return anonymous


def run_command(arguments: list[str], idle: int) -> dict[str, Any]:
    """Run one command of the tool; return its CPU seconds and the peak of its memory."""
    begun, peak = time.perf_counter(), 0
    command = [sys.executable, "-m", "recprune_export", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **VARIABLES})
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        peak = max(peak, read_memory_of_tree(process.pid)[0])
        time.sleep(0.02)
    if status:
        raise click.ClickException(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "wall_seconds": time.perf_counter() - begun,
        "peak_mb": (peak - idle) / 1e6,
    }


def measure_rows(count: int, folder: Path, idle: int) -> list[dict[str, Any]]:
    """Return a row of figures for each command on `count` rows."""
    data, model, bundle = folder / "rows", folder / "model.pt", folder / "bundle"
    data.mkdir()
    write_rows(data, count)
    commands = {
        "train": ["train", "--data", data, "--label", LABEL, "--recommender", "dlrm", "--epochs", "1", "-o", model],
        "main job": [model, "--sparsity", "0.7", "--data", data, "--epochs", "1", "-o", bundle],
        "predict": ["predict", bundle, "--data", data, "-o", folder / "scores.parquet"],
    }
    results = []
    for name, arguments in commands.items():
        figures = run_command([*map(str, arguments), "--quiet"], idle)
        results.append({"rows": count, "command": name, **figures, "model_mb": model.stat().st_size / 1e6})
        print(
            f"{count:>12,} {name:<9}{figures['cpu_seconds']:>8.0f} CPU s{count / figures['cpu_seconds']:>12,.0f} rows a CPU second"
            f"{figures['peak_mb']:>8,.0f} MB",
            flush=True,
        )
    print(json.loads((bundle / "manifest.json").read_text())["quality"]["sentence"])
    return results


@click.command()
@click.option("--rows", default="10000000,50000000", show_default=True)
@click.option("--folder", type=click.Path(path_type=Path, exists=True, file_okay=False), default=None)
def main(rows: str, folder: Path | None) -> None:
    """Run the commands for each number of rows."""
    idle, results = read_idle_memory(), []
    for count in map(int, rows.split(",")):
        scratch = Path(tempfile.mkdtemp(dir=folder, prefix="rows-"))
        try:
            results += measure_rows(count, scratch, idle)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps({"benchmark": "large-files", "environment": environment(), "results": results}))


if __name__ == "__main__":
    main()
