"""Score a folder of Parquet files in a pool of processes, one part of the rows at a time.

    python process_pool.py BUNDLE ROWS SCORES [--workers 2] [--keep user]

Processes are spawned, since the threads of polars do not survive a fork. Each reads its part, so that no rows are sent through pipes.
"""

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ["POLARS_MAX_THREADS"] = "1"  # of each process, which inherits it

import polars as pl

from recprune_export import Predictor

ROWS = 100_000  # of a part


def score_part(predictor: Predictor, rows: Path, start: int, scores: Path) -> int:
    """Write the scores of some rows, and return how many there are."""
    made = predictor(pl.scan_parquet(rows).slice(start, ROWS).collect())
    made.write_parquet(scores / f"{start:012}.parquet")
    return len(made)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("bundle", "rows", "scores"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", action="append", default=[])
    given = parser.parse_args()
    given.scores.mkdir(parents=True, exist_ok=True)
    predictor = Predictor(given.bundle, keep=given.keep)  # raises here where the bundle is wrong
    count = pl.scan_parquet(given.rows).select(pl.len()).collect().item()
    with ProcessPoolExecutor(given.workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        begin = time.perf_counter()
        tasks = [pool.submit(score_part, predictor, given.rows, n, given.scores) for n in range(0, count, ROWS)]
        rows = sum(task.result() for task in tasks)
    print(f"{rows:,} rows, {rows / (time.perf_counter() - begin):,.0f} a second with {given.workers} workers")


if __name__ == "__main__":
    main()
