"""Score a folder of Parquet files with Ray Data: a Predictor is a class that can be passed to `map_batches`.

python ray_data.py BUNDLE ROWS SCORES [--workers 2] [--keep user]
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray

from recprune_export import Predictor


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("bundle", "rows", "scores"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", action="append", default=[])
    given = parser.parse_args()
    # A worker has one core: one thread for the session (the default), and one for polars.
    ray.init(num_cpus=given.workers + 1, runtime_env={"env_vars": {"POLARS_MAX_THREADS": "1"}}, include_dashboard=False)
    begin = time.perf_counter()
    scores = ray.data.read_parquet(str(given.rows.absolute())).map_batches(
        Predictor,
        fn_constructor_args=(str(given.bundle.absolute()),),
        fn_constructor_kwargs={"keep": given.keep},
        batch_format="pyarrow",
        batch_size=32_768,
        compute=ray.data.ActorPoolStrategy(size=given.workers),
    )
    scores.write_parquet(str(given.scores.absolute()))
    seconds = time.perf_counter() - begin
    rows = ray.data.read_parquet(str(given.scores.absolute())).count()
    print(f"{rows:,} rows, {rows / seconds:,.0f} a second with {given.workers} workers")
    ray.shutdown()


if __name__ == "__main__":
    main()
