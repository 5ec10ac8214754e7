"""The search of `--max-drop` from start to end: trials, seconds, verdict, and held-out rows.

    python benchmarks/max_drop.py [rows.parquet:label[:ignored,...] ...] [--criteo-rows N] [--max-drop 0.001] [--epochs 1]
        [--recommender dlrm]

`--criteo-rows` adds generated rows with the columns of Criteo (13 numbers, 26 fields of 10,000 ids by a power law) and a
DLRM of 64 dimensions with a top of 1024-1024-512-256. Trains a recommender on each file, then compresses it with the search,
one thread. The change on test rows, which the search never sees, is that of the ONNX files. Prints a table, and JSON with the
machine as the last line.
"""

import json
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import polars as pl
import torch

from recprune_export import compress
from recprune_export.data import SchemaOverrides
from recprune_export.environment import environment
from recprune_export.search import OperatingPoint
from recprune_export.training import train

NUMERIC, FIELDS, IDS = 13, 26, 10_000
CRITEO = {"dim": 64, "hidden": (1024, 1024, 512, 256), "bottom": (512, 256)}


def write_criteo_rows(path: Path, rows: int) -> Path:
    """Write rows with a label that depends on some of the numbers and, by a random weight for each id, on all fields."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(rows, NUMERIC)).astype(np.float32)
    ids = np.minimum(IDS ** rng.random((rows, FIELDS)), IDS - 1).astype(np.int64)
    weights = rng.normal(scale=0.4, size=(FIELDS, IDS))
    logit = numbers[:, 0] - 0.5 * numbers[:, 1] * numbers[:, 2] - 1.0 + weights[np.arange(FIELDS), ids].sum(1)
    columns = {f"I{i + 1}": numbers[:, i] for i in range(NUMERIC)} | {f"C{i + 1}": ids[:, i] for i in range(FIELDS)}
    label = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    pl.DataFrame({"label": label, **columns}).write_parquet(path)
    return path


@click.command()
@click.argument("files", nargs=-1, metavar="FILE:LABEL[:IGNORED,...]...")
@click.option("--criteo-rows", type=int, help="Generate so many rows as well.")
@click.option("--max-drop", default=0.001, show_default=True)
@click.option("--minimize", type=click.Choice(["bytes", "latency"]), default="bytes", show_default=True)
@click.option("--epochs", default=1, show_default=True, help="Of fine-tuning in each trial.")
@click.option("--recommender", default="dlrm", show_default=True)
def main(
    files: tuple[str, ...], criteo_rows: int | None, max_drop: float, minimize: str, epochs: int, recommender: str
) -> None:
    """Search on every file."""
    torch.set_num_threads(1)
    results = []
    for word in (*files, *(["criteo.parquet:label"] if criteo_rows else [])):
        name, label, ignored, *_ = [*word.split(":"), ""]
        with tempfile.TemporaryDirectory() as folder:
            model, target = Path(folder) / "model.pt", Path(folder) / "bundle"
            overrides = SchemaOverrides(labels=(label,), ignore=tuple(filter(None, ignored.split(","))))
            config = None
            if criteo_rows and word not in files:
                name, config = str(write_criteo_rows(Path(folder) / name, criteo_rows)), CRITEO
                overrides = SchemaOverrides(
                    labels=(label,),
                    categorical=tuple(f"C{i + 1}" for i in range(FIELDS)),
                    numeric=tuple(f"I{i + 1}" for i in range(NUMERIC)),
                )
            train(Path(name), recommender, model, overrides, config)
            begun = (time.perf_counter(), time.process_time())
            result = compress(
                model, target=target, data=name, max_drop=max_drop, minimize=minimize, epochs=epochs,
                latency_batch_sizes=(1, 256),
            )  # fmt: skip
            seconds = (time.perf_counter() - begun[0], time.process_time() - begun[1])
            trials = [json.loads(path.read_text()) for path in sorted((Path(folder) / "bundle.search").glob("*.json"))]
            trials = [values["trial"] for values in trials if "trial" in values]
        manifest = result.manifest
        change = manifest.change
        low, high = change["interval"]
        sizes = {model: result.counts[model].bytes for model in ("dense", "pruned")}
        reason = manifest.notes[0].partition(":")[0]  # begins with the point
        print(f"{Path(name).name}, {recommender}, --max-drop {max_drop:g} --minimize {minimize}")
        for trial in trials:
            print(
                f"  {OperatingPoint.from_dict(trial['point']).label}, seed {trial['seed']}: {trial['after'] - trial['before']:+.4f} "
                f"[{trial['interval'][0]:+.4f}, {trial['interval'][1]:+.4f}] on {trial['rows']:,} validation rows"
            )
        print(
            f"  chosen: {reason}, {sizes['pruned']:,} of {sizes['dense']:,} bytes, after {len(trials)} trials, "
            f"{seconds[1]:.0f} CPU s, {seconds[0]:.0f} s; {change['metric']} on "
            f"{change['rows']:,} test rows {change['after'] - change['before']:+.4f} [{low:+.4f}, {high:+.4f}]",
            flush=True,
        )
        results.append({
            "file": Path(name).name, "point": reason, "bytes": sizes, "seconds": seconds[0], "cpu_seconds": seconds[1], "trials": trials,
            "test": change,
        })  # fmt: skip
    print(json.dumps({
        "benchmark": "max-drop", "max_drop": max_drop, "minimize": minimize, "threads": 1, "environment": environment(), "results": results
    }))  # fmt: skip


if __name__ == "__main__":
    main()
