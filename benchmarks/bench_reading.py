"""Process time until the rows of a file are encoded for `train`, from CSV and from Parquet.

    python benchmarks/bench_reading.py rows.parquet:label ... [--beside CHECKOUT] [--repeats 3]

Each file is read in fresh processes, one thread, as Parquet and as a CSV of the same rows; with `--beside` another checkout of
this repository takes turns with this one. Prints medians as a table, and JSON with the machine as the last line.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import polars as pl

from recprune_export.environment import environment

HERE = Path(__file__).resolve().parent.parent
READ = """
import sys, time
from pathlib import Path
from recprune_export.data import SchemaOverrides, infer_schema, load_clicks
path, label = Path(sys.argv[1]), sys.argv[2]
import numpy, polars
begun = time.process_time()
load_clicks(path, infer_schema(path, SchemaOverrides(labels=(label,))).schema)
print(time.process_time() - begun)
"""


def measure(checkout: Path, path: Path, label: str) -> float:
    """Return the seconds of one reading by the code of a checkout."""
    variables = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    command = [sys.executable, "-c", READ, str(path), label]
    done = subprocess.run(command, env=variables, cwd=checkout, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(done.stderr)
    return float(done.stdout.splitlines()[-1])


@click.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE:LABEL...")
@click.option("--beside", type=click.Path(path_type=Path), help="Another checkout of this repository.")
@click.option("--repeats", default=3, show_default=True)
def main(files: tuple[str, ...], beside: Path | None, repeats: int) -> None:
    """Read every file in both forms."""
    checkouts = {"this": HERE, **({} if beside is None else {"beside": beside})}
    results = []
    print(f"{'file':>20} {'rows':>9} {'form':>8} " + " ".join(f"{name + ', s':>10}" for name in checkouts))
    with tempfile.TemporaryDirectory() as folder:
        for word in files:
            name, _, label = word.rpartition(":")
            frame = pl.read_parquet(name)
            forms = {"CSV": Path(folder) / "rows.csv", "Parquet": Path(name).resolve()}
            frame.write_csv(forms["CSV"])
            for form, path in forms.items():
                runs: dict[str, list[float]] = {key: [] for key in checkouts}
                for _ in range(repeats):
                    for key, checkout in checkouts.items():
                        runs[key].append(measure(checkout, path, label))
                seconds = {key: statistics.median(values) for key, values in runs.items()}
                figures = " ".join(f"{value:>10.2f}" for value in seconds.values())
                print(f"{Path(name).name:>20} {len(frame):>9,} {form:>8} {figures}", flush=True)
                results.append({"file": Path(name).name, "rows": len(frame), "form": form, "seconds": runs})
    print(json.dumps({"benchmark": "reading", "threads": 1, "environment": environment(), "results": results}))


if __name__ == "__main__":
    main()
