"""Seconds, peak memory, exports and analyses of a job by stage.

    python benchmarks/bench_job.py [--job demo|criteo] [--quick] [--beside CHECKOUT] [--repeats 3] [--sparsity 0.7]

`demo` is the job of `make demo`: a recommender that is trained on generated rows once, then compressed with them. `criteo` is
an untrained DLRM of 26 tables with 10,000 rows of 64 dimensions (19 M parameters), compressed without rows and without
fine-tuning. Every compression runs in a fresh process with one thread. Stages are those of the progress bar; the time of an inner stage
does not count in the outer one. Memory is anonymous memory above that of the process after its imports. Functions are counted by wrapping
them from outside, so that the same script can measure an earlier checkout of this repository: with `--beside`, both take turns. The
medians are printed as a table, and as JSON in the last line.
"""

import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from checkouts import HERE, measure_in_fresh_process
from stage_trace import FIGURES, IMPORTS, Trace, install_recorder, sum_stages


def measure(job: str, model: Path, data: Path, sparsity: float, *, quick: bool) -> Trace:
    """Compress once in this process and return the figures by stage."""
    options: dict[str, Any] = {"sparsity": sparsity, **({"quick": True} if quick else {})}
    recorder = install_recorder()
    compress = importlib.import_module("recprune_export").compress
    arguments: tuple[Any, ...] = (model,)
    if job == "demo":
        options["data"] = data
    else:
        options["epochs"] = 0
        package = importlib.import_module("recprune_export")
        sys.path.insert(
            0, str(Path(str(package.__file__)).parents[1] / "benchmarks")
        )  # an earlier checkout has its own
        dlrm = importlib.import_module("models").make("dlrm")
        arguments = (dlrm.module, dict(dlrm.example))
    imports = time.process_time()
    recorder.begin()
    with tempfile.TemporaryDirectory() as folder:
        compress(*arguments, target=Path(folder) / "bundle", **options)
    recorder.lap()
    nothing = dict.fromkeys(FIGURES, 0.0)
    return {IMPORTS: {**nothing, "seconds": imports, "cpu_seconds": imports}, **recorder.stages}


def prepare(folder: Path, recommender: str) -> tuple[Path, Path]:
    """Generate rows and train on them, as `make demo` does; return checkpoint and rows."""
    data, model = folder / "clicks.parquet", folder / "model.pt"
    command = [sys.executable, "-m", "recprune_export"]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    train = ["train", "--data", str(data), "--label", "clicked", "--recommender", recommender, "-o", str(model)]
    for arguments in (["generate", "-o", str(data)], train):
        subprocess.run([*command, *arguments, "--quiet"], env=environment, check=True, stdout=subprocess.DEVNULL)
    return model, data


def medians(runs: Sequence[Trace]) -> Trace:
    """Return the median of each figure of each stage, and of the whole job as the stage `total`."""
    whole = [{**run, "total": sum_stages(run)} for run in runs]
    stages = dict.fromkeys(stage for run in whole for stage in run)
    nothing = dict.fromkeys(FIGURES, 0.0)
    return {s: {f: statistics.median(run.get(s, nothing)[f] for run in whole) for f in FIGURES} for s in stages}


def show(title: str, trace: Trace) -> None:
    """Print a table."""
    print(f"\n{title}")
    print(
        f"{'stage':<44} {'seconds':>8} {'CPU s':>8} {'peak MB':>8} {'exports':>8} {'(s)':>6} {'analyses':>9} {'(s)':>6}"
    )
    for stage, of in trace.items():
        print(
            f"{stage[:44]:<44} {of['seconds']:8.2f} {of['cpu_seconds']:8.2f} {of['peak_bytes'] / 1e6:8.0f} "
            f"{of['exports']:8.0f} {of['export_seconds']:6.2f} {of['analyses']:9.0f} {of['analysis_seconds']:6.2f}"
        )


@click.command(help=__doc__.splitlines()[0])
@click.option("--job", type=click.Choice(["demo", "criteo"]), default="demo", show_default=True)
@click.option("--quick", is_flag=True, help="Measure this checkout with --quick as well.")
@click.option("--beside", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Another checkout.")
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--sparsity", type=float, default=0.7, show_default=True)
@click.option("--recommender", default="dlrm", show_default=True, help="Of the demo.")
@click.option("--measure", "once", type=click.Path(path_type=Path), nargs=2, hidden=True)
def main(
    job: str,
    quick: bool,
    beside: Path | None,
    repeats: int,
    sparsity: float,
    recommender: str,
    once: tuple[Path, Path] | None,
) -> None:
    """Measure this checkout, and the other one in turns with it."""
    if once:
        return print(json.dumps(measure(job, *once, sparsity, quick=quick)))
    variants = {"here": (HERE, False), **({"here, --quick": (HERE, True)} if quick else {})}
    if beside:
        variants["beside"] = (beside.resolve(), False)
    runs: dict[str, list[Trace]] = {name: [] for name in variants}
    with tempfile.TemporaryDirectory() as folder:
        model, data = prepare(Path(folder), recommender) if job == "demo" else (Path(folder), Path(folder))
        for _ in range(repeats):
            for name, (checkout, is_quick) in variants.items():
                arguments = ["--job", job, "--measure", str(model), str(data), "--sparsity", str(sparsity)]
                trace = measure_in_fresh_process(__file__, checkout, [*arguments, *(["--quick"] if is_quick else [])])
                assert trace is not None
                runs[name].append(trace)
    measured = {name: medians(of) for name, of in runs.items()}
    for name, of in measured.items():
        show(f"{job}, {name}, median of {repeats}, one thread", of)
    report: dict[str, Any] = {"benchmark": "job", "job": job, "threads": 1, "sparsity": sparsity}
    report["environment"] = importlib.import_module("recprune_export.environment").environment()
    print(json.dumps({**report, **measured}))


if __name__ == "__main__":
    main()
