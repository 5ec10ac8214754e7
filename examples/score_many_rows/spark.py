"""Score a folder of Parquet files with Spark: `mapInArrow` calls a Predictor with pyarrow batches.

    python spark.py BUNDLE ROWS SCORES [--workers 2] [--keep user]

On a cluster, BUNDLE must be at the same path on each machine, for example in a shared folder.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from recprune_export import Predictor


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("bundle", "rows", "scores"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--keep", action="append", default=[])
    given = parser.parse_args()
    os.environ |= {"PYSPARK_PYTHON": sys.executable, "POLARS_MAX_THREADS": "1"}  # a worker has one core
    session = SparkSession.builder.master(f"local[{given.workers}]").config("spark.ui.enabled", "false")
    session = session.config("spark.driver.host", "127.0.0.1").config("spark.driver.bindAddress", "127.0.0.1")
    spark = session.config("spark.sql.execution.arrow.maxRecordsPerBatch", 32_768).getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    predictor = Predictor(given.bundle, keep=given.keep)
    rows = spark.read.parquet(str(given.rows.absolute()))
    schema = from_arrow_schema(predictor(rows.limit(0).toArrow()).schema)

    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        yield from map(predictor, batches)  # the bundle is opened in each worker, once

    begin = time.perf_counter()
    rows.mapInArrow(score, schema).write.mode("overwrite").parquet(str(given.scores.absolute()))
    seconds = time.perf_counter() - begin
    count = spark.read.parquet(str(given.scores.absolute())).count()
    print(f"{count:,} rows, {count / seconds:,.0f} a second with {given.workers} workers")
    spark.stop()


if __name__ == "__main__":
    main()
