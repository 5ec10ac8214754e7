"""Seconds of `reapply` by stage, and its quality beside a fresh job and the old artifact on data that drifted.

    python benchmarks/bench_reapply.py [--part criteo|drift|all] [--data ../shared/data/anime.parquet] [--seeds 3] [--users 5000]

`criteo` is the DLRM of `bench_job.py` (26 tables with 10,000 rows of 64 dimensions, 19 M parameters): a bundle of the weights of one
seed is made once, without tuning, and its plan applied to those of another seed, in a fresh process with one thread; with rows that the
bundle keeps, and with drawn requests.

`drift` trains a DLRM on two periods of anime. Its rows have no time; ids of users rise with the day on which they joined, so the first two
thirds of the users are the earlier period, and the last two thirds the later one. The vocabulary is that of all rows, because the tables
of a model that is trained daily must keep their shapes. Quality is that of the test rows of the later period: of the new dense model, of
the old artifact, of a fresh job, and of `reapply` with the rows that the bundle keeps, with --data, and with an epoch of tuning.

The medians (criteo) and means over seeds (drift) are printed as tables, and as JSON in the last line.
"""

import importlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import polars as pl
import torch
from checkouts import HERE, measure_in_fresh_process
from seeds import mean_of
from stage_trace import FIGURES, IMPORTS, Trace, install_recorder

SPARSITY, KEPT_ROWS, CRITEO_ROWS = 0.7, 4096, 20_000
POINTS: Mapping[str, Mapping[str, Any]] = {"sparsity .7": {"sparsity": 0.7}, "10% of the bytes": {"max_bytes": "10%"}}
TRAINING = {"epochs": 4, "batch_size": 2048, "learning_rate": 1e-3, "patience": 4}
MODEL = {"dim": 32, "hidden": (256, 128)}
QUICK = {"quick": True, "latency_batch_sizes": (256,)}
NEW_DENSE, OLD_ARTIFACT, FRESH = "new dense model", "old artifact", "fresh job"
KEPT, DATA, TUNED = "reapply, kept rows", "reapply --data", "reapply --data --epochs 1"


def save_criteo(seed: int, path: Path) -> None:
    """Write the DLRM with the weights of a seed as a program."""
    models = importlib.import_module("models")
    torch.manual_seed(seed)
    model = models.MODELS["dlrm"](models.DENSE)
    capture = importlib.import_module("recprune_export.program.capture").capture
    capture(model.module.eval(), (), dict(model.example)).save(path)


def measure_criteo(bundle: Path, model: Path) -> Trace:
    """Apply the plan of `bundle` to `model` in this process, and return the figures by stage."""
    recorder = install_recorder()
    reapply = importlib.import_module("recprune_export.reapply").reapply
    imports = time.process_time()
    recorder.begin()
    with tempfile.TemporaryDirectory() as folder:
        reapply(bundle, model, Path(folder) / "again")
    recorder.lap()
    nothing = dict.fromkeys(FIGURES, 0.0)
    return {IMPORTS: {**nothing, "seconds": imports, "cpu_seconds": imports}, **recorder.stages}


def write_criteo_rows(path: Path) -> None:
    """Write rows of the shape of Criteo's, with labels at random: they decide nothing here."""
    rng = np.random.default_rng(0)
    models = importlib.import_module("models")
    ids = rng.zipf(1.3, (CRITEO_ROWS, models.FIELDS)) % models.ROWS
    numeric = rng.standard_normal((CRITEO_ROWS, models.NUMERIC)).astype(np.float32)
    np.savez(path, numeric=numeric, ids=ids, click=rng.integers(0, 2, CRITEO_ROWS))


def run_criteo(repeats: int) -> dict[str, Any]:
    """Measure `repeats` times with each origin of the statistics, and return the medians by stage."""
    compress = importlib.import_module("recprune_export").compress
    bench_job = importlib.import_module("bench_job")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for seed in (0, 1):
            save_criteo(seed, folder / f"seed{seed}.pt2")
        write_criteo_rows(folder / "rows.npz")
        kept = {"data": folder / "rows.npz", "labels": "click", "calibration_rows": KEPT_ROWS}
        for name, options in {"kept rows": kept, "drawn requests": {}}.items():
            bundle, started = folder / name.replace(" ", "-"), time.process_time()
            compress(folder / "seed0.pt2", target=bundle, sparsity=SPARSITY, epochs=0, quick=True, **options)
            fresh = time.process_time() - started
            arguments = ["--measure", str(bundle), str(folder / "seed1.pt2")]
            runs = [measure_in_fresh_process(__file__, HERE, arguments) for _ in range(repeats)]
            medians = bench_job.medians([run for run in runs if run is not None])
            bench_job.show(f"criteo, reapply with {name}, median of {repeats}, one thread", medians)
            print(
                f"The job that made the bundle, with --quick as well, took {fresh:.1f} CPU s without its imports.",
                flush=True,
            )
            results[name] = {"stages": medians, "job_cpu_seconds": fresh}
    return results


def train_periods(rows: pl.DataFrame, folder: Path, seed: int) -> dict[str, Path]:
    """Train on each period with the vocabulary of all rows; return the checkpoints, beside files of the rows."""
    training = importlib.import_module("recprune_export.training._train")
    data = importlib.import_module("recprune_export.data")
    settings = importlib.import_module("recprune_export.settings")
    finetuning = importlib.import_module("recprune_export.finetuning")
    columns = data.SchemaOverrides(labels=("label",), ignore=("rating",))
    last = rows["user"].max()
    periods = {"old": pl.col("user") <= last * 2 / 3, "new": pl.col("user") > last / 3}
    everything = folder / "all.parquet"
    rows.write_parquet(everything)
    checkpoints = {}
    for name, condition in periods.items():
        rows.filter(condition).write_parquet(folder / f"{name}.parquet")
        clicks = training._load_clicks(everything, columns, None, settings.DEFAULT_DATA_SETTINGS)
        period = finetuning.read_encoded(folder / f"{name}.parquet", clicks.encoder)
        clicks = replace(clicks, train=period.train, valid=period.valid, test=period.test)
        recipe = replace(training.CLICK_CONFIG, **TRAINING, seed=seed)
        torch.manual_seed(seed)
        path = folder / f"{name}.pt"
        training._train(training._Clicks(clicks), "dlrm", MODEL, settings.DEFAULT_EVALUATION_SETTINGS, recipe, path, ())
        checkpoints[name] = path
    return checkpoints


def run_seed(
    rows: pl.DataFrame, point: Mapping[str, Any], folder: Path, models: Mapping[str, Path], seed: int
) -> dict[str, Any]:
    """Return quality, bytes and CPU seconds of every way to compress the new model, on test rows of the later period."""
    package, refresh = (
        importlib.import_module("recprune_export"),
        importlib.import_module("recprune_export.refresh.paired_quality"),
    )
    reapply = importlib.import_module("recprune_export.reapply").reapply
    old, new, target = folder / "old.parquet", folder / "new.parquet", folder / "bundles"
    base = target / "base"
    package.compress(models["old"], target=base, data=old, seed=seed, calibration_rows=KEPT_ROWS, **QUICK, **point)

    def run(job: Callable[[], Any]) -> dict[str, Any]:
        started = time.process_time()
        done = job()
        result = getattr(done, "result", done)
        return {
            "cpu_seconds": time.process_time() - started,
            "bytes": result.counts["pruned"].bytes,
            **quality_on(refresh, base, result.target, new),
            **(
                {} if done is result else {"verdict": done.verdict.words, "findings": [f.reason for f in done.findings]}
            ),
        }

    ways = {
        FRESH: lambda: package.compress(models["new"], target=target / "fresh", data=new, seed=seed, **QUICK, **point),
        KEPT: lambda: reapply(base, models["new"], target / "kept"),
        DATA: lambda: reapply(base, models["new"], target / "data", data=new),
        TUNED: lambda: reapply(base, models["new"], target / "tuned", data=new, epochs=1),
    }
    figures = {name: run(job) for name, job in ways.items()}
    manifest = importlib.import_module("recprune_export.bundle").read_manifest
    figures[NEW_DENSE] = {
        **manifest(target / "fresh").metrics["dense"],
        "bytes": manifest(target / "fresh").counts["dense"]["bytes"],
    }
    figures[OLD_ARTIFACT] = {**figures[FRESH]["base"], "bytes": manifest(base).counts["pruned"]["bytes"]}
    figures["kept file"] = {"bytes": (base / "calibration.npz").stat().st_size}
    return figures


def quality_on(refresh: Any, base: Path, bundle: Path, rows: Path) -> dict[str, Any]:
    """Return the metrics of a bundle on the test rows, and those of the base on the same rows."""
    changes = refresh.compare_on_rows(base, bundle, rows)
    return {
        **{name: change.after for name, change in changes.items()},
        "base": {name: change.before for name, change in changes.items()},
    }


def run_drift(data: Path, seeds: int, users: int) -> dict[str, Any]:
    """Train, compress and apply again with each seed; print the means."""
    rows = pl.read_parquet(data).filter(pl.col("user") <= users)
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in POINTS}
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as scratch:
            models = train_periods(rows, Path(scratch), seed)
            for name, point in POINTS.items():
                results[name].append(run_seed(rows, point, Path(scratch), models, seed))
                show_drift(name, results[name])
    return results


def show_drift(point: str, runs: Sequence[Mapping[str, Mapping[str, Any]]]) -> None:
    """Print the means over the seeds so far, and the changes from the fresh job, paired by seed."""
    print(f"\nanime by the order of users, {point}, test rows of the later period, {len(runs)} seeds")
    print(f"{'':<28} {'AUC':>7} {'minus the fresh job':>22} {'logloss':>8} {'kB':>8} {'CPU s':>7}")
    for name in (NEW_DENSE, OLD_ARTIFACT, FRESH, KEPT, DATA, TUNED):
        auc, logloss, size = (mean_of([run[name][key] for run in runs]).value for key in ("auc", "logloss", "bytes"))
        change = mean_of([run[name]["auc"] - run[FRESH]["auc"] for run in runs])
        seconds = mean_of([run[name].get("cpu_seconds", 0.0) for run in runs]).value
        print(f"{name:<28} {auc:7.4f} {change!s:>22} {logloss:8.4f} {size / 1e3:8.1f} {seconds:7.1f}", flush=True)
    kept = mean_of([run["kept file"]["bytes"] for run in runs]).value
    verdicts = ", ".join(f"{name}: {runs[-1][name]['verdict']}" for name in (KEPT, DATA, TUNED))
    print(f"{KEPT_ROWS:,} kept rows take {kept / 1e3:.1f} kB. Verdicts of the last seed: {verdicts}.")


@click.command(help=__doc__.splitlines()[0])
@click.option("--part", type=click.Choice(["criteo", "drift", "all"]), default="all", show_default=True)
@click.option("--data", type=click.Path(path_type=Path), default=HERE.parent / "shared" / "data" / "anime.parquet")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--users", type=click.IntRange(10), default=5000, show_default=True, help="Take the rows of the first users alone."
)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--measure", "once", type=click.Path(path_type=Path), nargs=2, hidden=True)
def main(part: str, data: Path, seeds: int, users: int, repeats: int, once: tuple[Path, Path] | None) -> None:
    """Measure this checkout."""
    torch.set_num_threads(1)
    if once:
        return print(json.dumps(measure_criteo(*once)))
    report: dict[str, Any] = {"benchmark": "reapply", "threads": 1}
    if part in ("criteo", "all"):
        report["criteo"] = run_criteo(repeats)
    if part in ("drift", "all"):
        report["drift"] = run_drift(data, seeds, users)
    report["environment"] = importlib.import_module("recprune_export.environment").environment()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
