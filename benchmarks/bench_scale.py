"""CPU seconds against the number of fields, and peak memory of a whole job against the rows of a table and of the file.

    python benchmarks/bench_scale.py [--fields 50,200,1000] [--calibration-batches 16] [--rows 1000000,10000000]
        [--file-rows 1000000,10000000] [--beside CHECKOUT] [--timeout 900]

Fields: a table of 100 x 16 each, concatenated into an MLP of 128; capture, analysis, planning with one structured fraction
(moments, scores and widths), rewriting, the soundness check and the ONNX export, each alone. Rows: a DLRM with one long
table of 32 dimensions and four of 1,000 rows, compressed with default settings on rows of a file (`--data-rows`), with the
peak of each stage; without `--data-rows` on sampled requests and without fine-tuning. Rows of the
file: a DLRM of `train` with eight fields of 100 to 20,000 values and two numbers, compressed for one epoch on a Parquet file with
`--quick --batch-size 8192`. Memory is anonymous memory above that after the imports, as a multiple of the model. Each size runs in
a fresh process, one thread; with `--beside` another checkout as well, where it ends within `--timeout` seconds. Prints tables, and
JSON in the last line.
"""

import importlib
import json
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np
import torch
from checkouts import HERE, measure_in_fresh_process
from names_of_47080cf import STRUCTURED_FRACTION, is_at_47080cf, steps_at_47080cf
from stage_trace import install_recorder, sum_stages
from torch import Tensor, nn

FIELD_ROWS, FIELD_DIM, HIDDEN = 100, 16, 128
LONG_DIM, SHORT_ROWS, SHORT_TABLES, NUMERIC = 32, 1_000, 4, 8
STEPS = ("capture", "analyze", "plan", "apply", "check", "export")
T = TypeVar("T")


class Fields(nn.Module):
    """A table for each field, and an MLP on all of them."""

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(FIELD_ROWS, FIELD_DIM) for _ in range(fields))
        self.mlp = nn.Sequential(nn.Linear(FIELD_DIM * fields, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1))

    def forward(self, ids: Tensor) -> Tensor:
        """[B, fields] ids to logits, [B]."""
        vectors = [table(ids[:, i]) for i, table in enumerate(self.tables)]
        return self.mlp(torch.cat(vectors, 1)).squeeze(1)  # type: ignore[no-any-return]


class LongTableDLRM(nn.Module):
    """A DLRM with one long table and some short ones: the dot products of all pairs of fields, into the top."""

    pairs: Tensor

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(n, LONG_DIM) for n in (rows, *[SHORT_ROWS] * SHORT_TABLES))
        self.bottom = nn.Sequential(nn.Linear(NUMERIC, 64), nn.ReLU(), nn.Linear(64, LONG_DIM), nn.ReLU())
        fields = SHORT_TABLES + 2
        self.register_buffer("pairs", torch.triu_indices(fields, fields, 1), persistent=False)
        inputs = LONG_DIM + self.pairs.shape[1]
        self.top = nn.Sequential(nn.Linear(inputs, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU(), nn.Linear(256, 1))
        with torch.no_grad():
            for table in self.tables:
                table.weight.mul_(LONG_DIM**-0.5)  # type: ignore[operator]

    def forward(self, numeric: Tensor, ids: Tensor) -> Tensor:
        """[B, 8] numbers and [B, 5] ids to logits, [B]."""
        bottom = self.bottom(numeric)
        vectors = torch.stack([bottom, *(table(ids[:, i]) for i, table in enumerate(self.tables))], 1)
        dots = vectors @ vectors.transpose(1, 2)
        return self.top(torch.cat([bottom, dots[:, self.pairs[0], self.pairs[1]]], 1)).squeeze(1)  # type: ignore[no-any-return]


def measure_fields(fields: int, batches: int) -> dict[str, float]:
    """Return the CPU seconds of each step for a model with this number of fields, planned by so many sampled batches."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    seconds: dict[str, float] = {}

    def timed(step: str, function: Callable[[], T]) -> T:
        begun = time.process_time()
        result = function()
        seconds[step] = time.process_time() - begun
        return result

    capture = importlib.import_module("recprune_export.program.capture").capture
    capture(Fields(2).eval(), (torch.zeros(2, 2, dtype=torch.int64),))  # imports and caches of torch.export
    program = timed("capture", lambda: capture(Fields(fields).eval(), (torch.zeros(2, fields, dtype=torch.int64),)))
    importlib.import_module("recprune_export.finetuning.task").SAMPLED_STEPS = batches
    with tempfile.TemporaryDirectory() as folder:
        steps = steps_at_47080cf if is_at_47080cf() else _steps
        for step, function in steps(program, Path(folder)).items():
            timed(step, function)
    return {"nodes": len(program.module.graph.nodes), **seconds}


def _steps(program: Any, folder: Path) -> Mapping[str, Callable[[], object]]:
    from recprune_export.onnx.export import export_onnx
    from recprune_export.pipeline.compress import make_sampled_task
    from recprune_export.pipeline.planning import plan_pruning
    from recprune_export.pruning.apply import apply_plan, check_soundness
    from recprune_export.pruning.rotation import apply_transforms, find_rotatable_groups
    from recprune_export.settings import Settings

    settings = Settings().with_options(structured_fraction=STRUCTURED_FRACTION)
    values: dict[str, Any] = {}

    def plan() -> None:
        task = make_sampled_task(program, settings.finetuning)
        values["planned"] = plan_pruning(program, settings.pruning, task)

    def apply() -> None:
        planned = values["planned"]
        rotatable = find_rotatable_groups(planned.program).rotatable
        values["original"] = apply_transforms(planned.program, rotatable, planned.plan.transforms)
        values["pruned"] = apply_plan(values["original"], planned.plan)

    return {
        "analyze": lambda: program.analysis,
        "plan": plan,
        "apply": apply,
        "check": lambda: check_soundness(values["original"], values["planned"].plan, values["pruned"]),
        "export": lambda: export_onnx(values["pruned"], folder / "model.onnx"),
    }


def measure_rows(rows: int, data_rows: int) -> dict[str, Any]:
    """Compress a DLRM with a table of `rows` rows, and return its trace and the bytes of the model."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recorder = install_recorder()
    compress = importlib.import_module("recprune_export").compress
    importlib.import_module("recprune_export.onnx.export")
    model = LongTableDLRM(rows).eval()
    example = {"numeric": torch.randn(2, NUMERIC), "ids": torch.zeros(2, SHORT_TABLES + 1, dtype=torch.int64)}
    size = sum(p.nbytes for p in model.parameters())
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"epochs": 0}
        if data_rows:
            options = {"data": make_rows(Path(folder) / "rows.npz", rows, data_rows), "labels": ["clicked"]}
        recorder.begin(counted_bytes=size)  # the model counts as its first copy
        compress(model, example, target=Path(folder) / "bundle", sparsity=0.7, **options)
        recorder.lap()
    return {"model_bytes": size, "trace": recorder.stages}


def make_rows(path: Path, rows: int, count: int) -> Path:
    """Write rows with ids by a power law, and a label that depends on two numbers and on an id."""
    rng = np.random.default_rng(0)
    sizes = np.array([rows, *[SHORT_ROWS] * SHORT_TABLES])
    ids = np.minimum(sizes ** rng.random((count, len(sizes))), sizes - 1).astype(np.int64)
    numeric = rng.normal(size=(count, NUMERIC)).astype(np.float32)
    logit = numeric[:, 0] - 0.5 * numeric[:, 1] + np.sin(ids[:, 1]) - 1.0
    clicked = (rng.random(count) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    np.savez(path, numeric=numeric, ids=ids, clicked=clicked)
    return path


def measure_file_rows(count: int) -> dict[str, Any]:
    """Compress a trained DLRM on a file of `count` rows, and return its trace and the bytes of the model."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    recorder = install_recorder()
    package = importlib.import_module("recprune_export")
    training, data = (importlib.import_module(f"recprune_export.{name}") for name in ("training", "data"))
    importlib.import_module("recprune_export.onnx.export")
    with tempfile.TemporaryDirectory() as folder:
        few, rows = (
            write_clicks(Path(folder) / "few.parquet", 50_000),
            write_clicks(Path(folder) / "rows.parquet", count),
        )
        model, config = Path(folder) / "dlrm.pt", {"dim": 16, "bottom": (32,), "hidden": (64, 32)}
        training.train(few, "dlrm", model, data.SchemaOverrides(labels=("clicked",)), config, epochs=1)
        size = model.stat().st_size
        recorder.begin()
        package.compress(
            model,
            data=rows,
            target=Path(folder) / "bundle",
            sparsity=0.7,
            epochs=1,
            batch_size=8192,
            quick=True,
            allow_unknown=True,
        )
        recorder.lap()
    return {"model_bytes": size, "trace": recorder.stages}


def write_clicks(path: Path, count: int) -> Path:
    """Write a Parquet file of clicks, a million rows at a time: ids by a power law, and a label that depends on some of them."""
    import polars as pl

    sizes = np.geomspace(100, 20_000, 8).astype(int)
    with tempfile.TemporaryDirectory(dir=path.parent) as parts:
        for start in range(0, count, 1_000_000):
            rng, number = np.random.default_rng(start), min(1_000_000, count - start)
            ids = np.minimum(sizes ** rng.random((number, len(sizes))), sizes - 1).astype(np.int64)
            age, price = rng.normal(size=(2, number))
            logit = np.sin(ids[:, 0]) + 0.5 * np.cos(ids[:, 7]) + 0.3 * age - 1.0
            clicked = (rng.random(number) < 1 / (1 + np.exp(-logit))).astype(np.int64)
            texts = [
                ("v" + pl.Series(f"field_{n}", ids[:, n]).cast(pl.String)).alias(f"field_{n}")
                for n in range(len(sizes))
            ]
            frame = pl.DataFrame(
                [*texts, pl.Series("age", age), pl.Series("price", price), pl.Series("clicked", clicked)]
            )
            frame.write_parquet(Path(parts) / f"{start:012}.parquet", row_group_size=100_000)
        pl.scan_parquet(Path(parts) / "*.parquet").sink_parquet(path)
    return path


def show_fields(name: str, fields: int, figures: Mapping[str, float] | None) -> None:
    """Print a line."""
    cells = ["  not in time"] if figures is None else [f"{figures[step]:8.2f}" for step in STEPS]
    nodes = "" if figures is None else f"{figures['nodes']:.0f}"
    print(f"{name:<8} {fields:>7,} {nodes:>6} {' '.join(cells)}", flush=True)


def show_rows(name: str, rows: int, result: Mapping[str, Any] | None) -> None:
    """Print the whole job, then the stages with the largest peaks."""
    if result is None:
        return print(f"{name:<8} {rows:>12,}   not in time or memory", flush=True)
    size, trace = result["model_bytes"], result["trace"]
    sums = sum_stages(trace)
    title = f"{name:<8} {rows:>12,} {size / 1e6:9.0f} {sums['cpu_seconds']:9.1f}"
    print(f"{title} {sums['peak_bytes'] / 1e6:9.0f} {sums['peak_bytes'] / size:6.2f}")
    for stage, of in sorted(trace.items(), key=lambda item: -item[1]["peak_bytes"])[:12]:
        label = f"  {stage[:29]}"
        print(f"{label:<31} {of['cpu_seconds']:9.1f} {of['peak_bytes'] / 1e6:9.0f} {of['peak_bytes'] / size:6.2f}")


def _numbers(text: str) -> list[int]:
    return [int(float(number)) for number in text.split(",") if number]


def _measure(arguments: list[str], checkout: Path, timeout: float) -> dict[str, Any] | None:
    try:
        return measure_in_fresh_process(__file__, checkout, arguments, timeout=timeout)
    except RuntimeError as error:
        print(str(error).splitlines()[-1])
        return None


@click.command(help=__doc__.splitlines()[0])
@click.option("--fields", default="50,200,1000", show_default=True)
@click.option("--calibration-batches", default=16, show_default=True, help="Sampled batches of planning, at most 16.")
@click.option("--rows", default="1000000,10000000", show_default=True)
@click.option(
    "--data-rows", default=1_000_000, show_default=True, help="Rows of the file; 0: no file and no fine-tuning."
)
@click.option("--file-rows", default="1000000,10000000", show_default=True)
@click.option("--beside", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Another checkout.")
@click.option("--timeout", default=900.0, show_default=True, help="Seconds for one size.")
@click.option("--measure", type=(click.Choice(["fields", "rows", "file-rows"]), int), hidden=True)
def main(
    fields: str,
    calibration_batches: int,
    rows: str,
    data_rows: int,
    file_rows: str,
    beside: Path | None,
    timeout: float,
    measure: tuple[str, int] | None,
) -> None:
    """Measure fields, then rows."""
    if measure:
        kind, size = measure
        measurements: dict[str, Callable[[], dict[str, Any]]] = {
            "fields": lambda: measure_fields(size, calibration_batches),
            "rows": lambda: measure_rows(size, data_rows),
            "file-rows": lambda: measure_file_rows(size),
        }
        return print(json.dumps(measurements[kind]()))
    checkouts = {"here": HERE, **({"beside": beside.resolve()} if beside else {})}
    report: dict[str, dict[str, Any]] = {"fields": {}, "rows": {}, "file_rows": {}}
    print("CPU seconds, one thread")
    print(f"{'':<8} {'fields':>7} {'nodes':>6} {' '.join(f'{step:>8}' for step in STEPS)}")
    for number in _numbers(fields):
        for name, checkout in checkouts.items():
            result = _measure(
                ["--measure", "fields", str(number), "--calibration-batches", str(calibration_batches)],
                checkout,
                timeout,
            )
            report["fields"].setdefault(name, {})[number] = result
            show_fields(name, number, result)
    print(f"\n{'':<8} {'rows':>12} {'model MB':>9} {'CPU s':>9} {'peak MB':>9} {'copies':>6}")
    for number in _numbers(rows):
        for name, checkout in checkouts.items():
            arguments = ["--measure", "rows", str(number), "--data-rows", str(data_rows)]
            result = _measure(arguments, checkout, timeout)
            report["rows"].setdefault(name, {})[number] = result
            show_rows(name, number, result)
    print(f"\n{'':<8} {'rows of file':>12} {'model MB':>9} {'CPU s':>9} {'peak MB':>9} {'copies':>6}")
    for number in _numbers(file_rows):
        for name, checkout in checkouts.items():
            result = _measure(["--measure", "file-rows", str(number)], checkout, timeout)
            report["file_rows"].setdefault(name, {})[number] = result
            show_rows(name, number, result)
    environment = importlib.import_module("recprune_export.environment").environment()
    settings = {
        "threads": 1,
        "calibration_batches": calibration_batches,
        "data_rows": data_rows,
        "environment": environment,
    }
    print(json.dumps({"benchmark": "scale", **settings, **report}))


if __name__ == "__main__":
    main()
