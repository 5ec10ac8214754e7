"""Rows a second of a Predictor by batch size, threads and kind of batch, beside `predict` and beside ONNX Runtime on encoded arrays.

    python benchmarks/bench_predictor.py BUNDLE ROWS.parquet [--seconds 3]

BUNDLE was made from a checkpoint of `train`, ROWS is its file of rows or one like it. The arrays of ONNX Runtime are encoded before
they are timed, so its rate is that of the model alone. Rates use wall-clock time; the table also shows CPU seconds of the whole process
for a million rows. Prints a table, and JSON as the last line.
"""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import polars as pl

from recprune_export import Predictor
from recprune_export.environment import environment
from recprune_export.onnx.runtime import make_session, run
from recprune_export.prediction import predict
from recprune_export.prediction.open_model import open_model

BATCH_SIZES = (1, 64, 1024, 16_384, 65_536)
THREADS = (1, 2)


def measure(call: Callable[[Any], object], batches: list[Any], rows: int, seconds: float) -> dict[str, float]:
    """Return rows a second, and CPU seconds for a million rows, of calls with one batch after another."""
    call(batches[0])
    calls, begin, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() < begin + seconds:
        call(batches[calls % len(batches)])
        calls += 1
    wall, used = time.perf_counter() - begin, time.process_time() - cpu
    return {"rows_per_second": calls * rows / wall, "cpu_seconds_per_million": used / (calls * rows) * 1e6}


def as_arrays(frame: pl.DataFrame) -> dict[str, Any]:
    return {name: frame[name].to_numpy() for name in frame.columns}


def list_kinds() -> dict[str, Callable[[pl.DataFrame], Any]]:
    kinds: dict[str, Callable[[pl.DataFrame], Any]] = {"polars": lambda frame: frame, "arrays": as_arrays}
    try:
        import pyarrow

        kinds["Arrow"] = pyarrow.table
    except ModuleNotFoundError:
        pass
    return kinds


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("rows", type=click.Path(path_type=Path, exists=True))
@click.option("--seconds", default=3.0, show_default=True)
def main(bundle: Path, rows: Path, seconds: float) -> None:
    frame, results = pl.read_parquet(rows), []
    model = open_model(bundle)
    encoder = model.encoder
    if encoder is None:
        raise click.ClickException(f"{bundle} has no vocabularies: give a bundle of a checkpoint of `train`.")
    print(f"{'':<28} threads    batch      rows/s  CPU s per million rows")

    def keep(name: str, threads: int, size: int, found: dict[str, float]) -> None:
        results.append({"scores": name, "threads": threads, "batch_size": size, **found})
        print(
            f"{name:<28} {threads:>7} {size:>8} {found['rows_per_second']:>11,.0f}  {found['cpu_seconds_per_million']:>8.2f}"
        )

    for threads in THREADS:
        session = make_session(bundle / "model.onnx", threads)
        predictor = Predictor(bundle, threads=threads)
        for size in (each for each in BATCH_SIZES if each <= len(frame)):
            parts = [frame.slice(start, size) for start in range(0, min(len(frame) - size + 1, 8 * size), size)]
            encoded = [encoder.encode(part) for part in parts]
            keep(
                "ONNX Runtime, encoded",
                threads,
                size,
                measure(lambda part, of=session: run(of, part), encoded, size, seconds),
            )
            for kind, convert in list_kinds().items():
                batches = [convert(part) for part in parts]
                keep(f"Predictor, {kind}", threads, size, measure(predictor, batches, size, seconds))
        with tempfile.TemporaryDirectory() as folder:
            cpu = time.process_time()
            made = predict(bundle, rows, Path(folder) / "scores.parquet", threads=threads)
            used = time.process_time() - cpu
        found = {"rows_per_second": made.rows / made.seconds, "cpu_seconds_per_million": used / made.rows * 1e6}
        keep("predict", threads, len(frame), found)
    print(json.dumps({"benchmark": "predictor", "environment": environment(), "results": results}))


if __name__ == "__main__":
    main()
