"""CPU seconds and peak memory of a paired change of each metric, against the number of rows.

    python benchmarks/bench_many_rows.py [--rows 1000000,10000000] [--metrics auc,pr-auc,gauc,logloss,ece] [--beside CHECKOUT]

Two models of one label with 30 % positive rows and 20 rows a group. Each metric and number of rows runs in a fresh process, one
thread, also with the code of another checkout. Memory is anonymous memory above that before the first row was created. Answers and labels
are stored in files, as after `observe`, if the checkout supports this. Prints a table, and JSON with the values in the last line.
"""

import importlib
import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from checkouts import HERE, measure_in_fresh_process
from stage_trace import PeakMemory, read_anonymous_memory

PIECE = 1 << 18


def make_rows(rows: int) -> dict[str, np.ndarray]:
    """Return labels, groups and the probabilities of two models, drawn in pieces."""
    try:
        make = importlib.import_module("recprune_export.metrics.row_arrays").make_row_array
    except ImportError:
        make = np.zeros
    dtypes = {"labels": "f4", "rows": "i8", "groups": "i8", "before": "f8", "after": "f8"}
    arrays = {name: make(rows, dtype) for name, dtype in dtypes.items()}
    for start in range(0, rows, PIECE):
        place, rng = slice(start, min(start + PIECE, rows)), np.random.default_rng(start)
        count = place.stop - start
        first, second = rng.normal(size=(2, count))
        arrays["labels"][place] = labels = rng.random(count) < 0.3
        arrays["rows"][place] = np.arange(start, place.stop)
        arrays["groups"][place] = rng.integers(0, max(rows // 20, 1), count)
        arrays["before"][place] = 1 / (1 + np.exp(-(labels + first)))
        arrays["after"][place] = 1 / (1 + np.exp(-(0.9 * labels + 0.9 * first + 0.19**0.5 * second)))
    return arrays


def measure(name: str, rows: int) -> dict[str, Any]:
    """Return the figures of one metric, in this process."""
    from recprune_export.data import LabelKind
    from recprune_export.metrics import DecidingMetric, Observations, Targets, find_metric, paired_change

    metric = find_metric(name)
    assert metric is not None
    importlib.import_module("torchmetrics.functional.classification")
    before_rows, memory = read_anonymous_memory(), PeakMemory()
    arrays = make_rows(rows)
    targets = Targets("click", LabelKind.BINARY, arrays["labels"], arrays["rows"], rows, groups=arrays["groups"])
    models = ({"click": Observations(targets, arrays[model])} for model in ("before", "after"))
    begun = time.process_time()
    change = paired_change(DecidingMetric(name, metric, ("click",)), *models)
    seconds = time.process_time() - begun
    return {"cpu_seconds": seconds, "peak_bytes": memory.take() - before_rows, **change.to_dict()}


@click.command(help=__doc__.splitlines()[0])
@click.option("--rows", default="1000000,10000000", show_default=True)
@click.option("--metrics", default="auc,pr-auc,gauc,logloss,ece", show_default=True)
@click.option("--beside", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Another checkout.")
@click.option("--measure", "measured", type=(str, int), hidden=True)
def main(rows: str, metrics: str, beside: Path | None, measured: tuple[str, int] | None) -> None:
    """Measure each metric for each number of rows."""
    if measured:
        return print(json.dumps(measure(*measured)))
    results = []
    print(f"{'':<8} {'metric':<8} {'rows':>13} {'CPU s':>7} {'peak MB':>8}  before, after and its interval")
    for number in (int(float(text)) for text in rows.split(",")):
        for name in metrics.split(","):
            for label, checkout in {"here": HERE, **({"beside": beside.resolve()} if beside else {})}.items():
                result = measure_in_fresh_process(__file__, checkout, ["--measure", name, str(number)])
                assert result is not None
                results.append({"checkout": label, "metric": name, "rows": number, **result})
                low, high = result["interval"]
                print(
                    f"{label:<8} {name:<8} {number:>13,} {result['cpu_seconds']:7.1f} {result['peak_bytes'] / 1e6:8.0f}  "
                    f"{result['before']:.9f} {result['after']:.9f} [{low:+.7f}, {high:+.7f}]",
                    flush=True,
                )
    environment = importlib.import_module("recprune_export.environment").environment()
    print(json.dumps({"benchmark": "many rows", "threads": 1, "environment": environment, "results": results}))


if __name__ == "__main__":
    main()
