"""Speed-ups measured beside busy processes, in pairs with the same measurement without them.

    python benchmarks/bench_busy.py [--bundle PATH] [--repeats 5] [--processes 2] [--latency-batch-sizes 1,256,1024] [--seconds 2]

The same two files, those of a bundle or a dense and a pruned DLRM without training, are measured as the main job and
`verify --latency` do. Each busy process computes continuously on any core. The table shows, by repeat and batch size, the speed-up and
its clock, the speed-up in wall-clock time, whether a warning was given, and whether both intervals overlap. Prints a table, and JSON as
the last line.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from latency import prune
from models import make

from recprune_export.bundle import DENSE, MODEL, read_manifest
from recprune_export.environment import count_cores, environment
from recprune_export.evidence import Estimate
from recprune_export.number_formats import format_ratio
from recprune_export.onnx import ServingConfig, export_onnx
from recprune_export.program import Signature
from recprune_export.program.capture import capture
from recprune_export.settings import parse_batch_sizes
from recprune_export.validation import (
    DENSE_ONNX,
    PRUNED_ONNX,
    LatencyReport,
    make_onnxruntime_backend,
    measure_latency,
    sample_cycles,
)

SPARSITY = 0.7
Files = tuple[Path, Path]  # dense, pruned


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Let `count` processes compute inside the block."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def make_files(folder: Path, batches: tuple[int, ...]) -> tuple[Files, Signature]:
    """Export an untrained DLRM and the same with part of its structure."""
    model = make("dlrm")
    program = capture(model.module, (), dict(model.example))
    dense = export_onnx(program, folder / "dense.onnx", rewrites=())
    pruned = export_onnx(prune(program, SPARSITY), folder / "pruned.onnx", serving=ServingConfig(batches=batches))
    return (dense.path, pruned.path), pruned.signature


def open_files(bundle: Path) -> tuple[Files, Signature]:
    """Return the files of a bundle."""
    return (bundle / DENSE, bundle / MODEL), Signature.from_dict(read_manifest(bundle).signature)


def measure_pair(files: Files, requests: dict[int, Any], seconds: float) -> LatencyReport:
    """Measure both files in new sessions."""
    backends = [
        make_onnxruntime_backend(name, path, 1) for name, path in zip((DENSE_ONNX, PRUNED_ONNX), files, strict=True)
    ]
    return measure_latency(backends, requests, threads=1, seconds=seconds)


def describe(report: LatencyReport, batch: int) -> dict[str, Any]:
    """Return the speed-up at one batch size by all clocks."""
    wall, cpu, ratio = (
        *(report.ratio_by(clock, batch, DENSE_ONNX, PRUNED_ONNX) for clock in ("wall", "CPU")),
        report.ratio(batch, DENSE_ONNX, PRUNED_ONNX),
    )
    return {
        "clock": report.clock,
        "ratio": asdict(ratio),
        "wall": asdict(wall),
        "cpu": asdict(cpu),
        "waiting": report.waiting(batch),
        "preemptions": report.preemptions[batch],
        "warning": bool(report.warnings),
    }


def overlap(one: Estimate, other: Estimate) -> bool:
    """Whether two intervals have a value in common."""
    return one.low <= other.high and other.low <= one.high


@click.command(help=__doc__.splitlines()[0])
@click.option("--bundle", type=click.Path(path_type=Path), help="With dense.onnx.  [default: a DLRM of Criteo size]")
@click.option("--repeats", default=5, show_default=True)
@click.option("--processes", default=count_cores(), show_default="cores", help="Busy processes.")
@click.option("--latency-batch-sizes", "batches", default="1,256,1024", show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="For each batch size.")
def main(bundle: Path | None, repeats: int, processes: int, batches: str, seconds: float) -> None:
    torch.set_num_threads(1)
    sizes = parse_batch_sizes(batches)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        files, signature = make_files(Path(scratch), sizes) if bundle is None else open_files(bundle)
        requests = sample_cycles(signature, sizes, seed=0)
        click.echo("| repeat | batch | alone | beside others | by the wall clock there | waited | warning | overlap |")
        click.echo("|---|---|---|---|---|---|---|---|")
        for repeat in range(repeats):
            alone = measure_pair(files, requests, seconds)
            with busy_processes(processes):
                beside = measure_pair(files, requests, seconds)
            for batch in sizes:
                row = {
                    "repeat": repeat,
                    "batch": batch,
                    "alone": describe(alone, batch),
                    "beside": describe(beside, batch),
                }
                ratios = [Estimate(**row[key]["ratio"]) for key in ("alone", "beside")]
                row["overlap"] = overlap(*ratios)
                rows.append(row)
                cells = [
                    f"{format_ratio(ratio)} {row[key]['clock']}"
                    for key, ratio in zip(("alone", "beside"), ratios, strict=True)
                ]
                wall, waited = format_ratio(Estimate(**row["beside"]["wall"])), f"{row['beside']['waiting']:.0%}"
                warned = "yes" if row["beside"]["warning"] else "no"
                overlaps = "yes" if row["overlap"] else "no"
                click.echo(f"| {repeat} | {batch} | {' | '.join(cells)} | {wall} | {waited} | {warned} | {overlaps} |")
    summary = {
        str(batch): {
            "warnings": sum(row["beside"]["warning"] for row in rows if row["batch"] == batch),
            "overlaps": sum(row["overlap"] for row in rows if row["batch"] == batch),
            "repeats": repeats,
        }
        for batch in sizes
    }
    click.echo(
        json.dumps(
            {
                "benchmark": "busy",
                "environment": environment(),
                "processes": processes,
                "summary": summary,
                "rows": rows,
            }
        )
    )


if __name__ == "__main__":
    main()
