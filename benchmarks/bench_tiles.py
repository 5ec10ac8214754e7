"""Zeros in tiles beside zeros one by one and removed channels: speed of an MLP, and quality of a DLRM at equal zeros.

    python benchmarks/bench_tiles.py [--share 0.1] [--seconds 2] [--data-folder ../shared/data --sparsity 0.9]

Speed: three layers of 1024 units with a tenth of their weights, by themselves and with a last unit behind them as a click
model has it, through the export that every bundle takes; one thread. The contestants take turns, of one call each, where
what one needs drives what the other needs out of the caches, and of ten calls each, as a server would call one model.
Quality, only where --data-folder is given: the test AUC of a DLRM with wide hidden layers after one epoch of tuning, all
methods with the same non-zeros outside of tables, tables whole; channels removed also at lower sparsities, to compare at
equal latency. Prints tables, and JSON as the last line; those of speed go into docs/ (or where --write says).
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from latency import DOCS, PERCENT, REFERENCE, times_faster
from results import told_of_machine, write_section
from torch import nn

from recprune_export.compression.compress import drawn_requests
from recprune_export.compression.planning import calibration
from recprune_export.compression.served import export_pruned
from recprune_export.compression.stages import prune
from recprune_export.compression.tiling import choose_tiles
from recprune_export.data.inference import Wishes
from recprune_export.environment import environment
from recprune_export.finetuning.finetune import Schedule, finetune
from recprune_export.finetuning.task import answer
from recprune_export.finetuning.zeros import ZeroTarget, parameter_counts
from recprune_export.jobs import load, make_task
from recprune_export.onnx.cost import cost_of_file
from recprune_export.onnx.counts import count
from recprune_export.onnx.export import Serving, export_onnx
from recprune_export.program.capture import capture
from recprune_export.program.program import Program
from recprune_export.settings import Settings, batch_sizes
from recprune_export.training.evaluate import primary
from recprune_export.training.train import train
from recprune_export.validation.contestants import in_onnxruntime
from recprune_export.validation.latency import Contestant, LatencyReport, measure
from recprune_export.validation.requests import Request
from recprune_export.validation.rotation import draw

BATCHES = "1,16,64,256,1024"
TILES = (32, 64, 128, 256)
WIDTH, LAYERS = 1024, 3
CALLS = 10
HIDDEN = (512, 512, 256)
EQUAL_LATENCY = (0.7, 0.8)  # sparsities at which removed channels may be as fast as tiles
DENSE = REFERENCE  # as PyTorch exports it
INTRO = f"""\
An MLP that keeps a tenth of its weights, by itself and with a last unit as a click model has it. Zeros one by one (*element*)
run no faster; in tiles of so many units, as `--pattern tile --tile N` makes them, a tenth of the multiply-adds is left, so ten
times is the ideal. Times faster than {REFERENCE}, by the {PERCENT}th percentiles, with 95 % intervals; other requests each
round. With one call in turn each file finds the caches full of what the others needed; with {CALLS} it is called as a server
would call one model."""


class Mlp(nn.Module):
    """Layers as wide as the request, and perhaps one unit behind them."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(part for _ in range(LAYERS) for part in (nn.Linear(WIDTH, WIDTH), nn.ReLU())))
        if last:
            self.layers.append(nn.Linear(WIDTH, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, 1024] to [B, 1024], or [B, 1]."""
        return self.layers(x)  # type: ignore[no-any-return]


def mlp(settings: Settings, share: float, last: bool) -> Program:
    """An MLP in which `share` of the parameters is not zero."""
    torch.manual_seed(0)
    program = capture(Mlp(last).eval(), (torch.randn(3, WIDTH),))
    if share == 1.0:
        return program
    task, tables = drawn_requests(program, settings), program.analysis.tables
    target = ZeroTarget(0, int(share * parameter_counts(program, tables)[1]))
    requests = [request for request, _ in calibration(task, 0)]
    tiling = choose_tiles(program, tables, target, settings, requests, task.objective.probe).tiling
    finetune(program, program, task, tables, target, Schedule(0, 1e-3, False, 0), tiling=tiling)
    return program


def in_a_row(contestant: Contestant, calls: int) -> Contestant:
    """Answer the same request so many times."""

    def run(request: Request) -> None:
        for _ in range(calls):
            contestant.run(request)

    return Contestant(contestant.name, run, contestant.take)


def speed(share: float, batches: tuple[int, ...], seconds: float, last: bool) -> dict[str, Any]:
    """Measure the MLP in both kinds of turns."""
    plain = Settings(batches=batches)
    wished = {DENSE: (plain, 1.0), "element": (plain, share)}
    wished |= {f"tile {tile}": (replace(plain, pattern="tile", tile=tile), share) for tile in TILES}
    with tempfile.TemporaryDirectory() as scratch:
        files = {}
        for name, (settings, kept) in wished.items():
            file = export_onnx(mlp(settings, kept, last), Path(scratch) / f"{name}.onnx", serving=Serving(batches))
            files[name] = file.path
        contestants = [in_onnxruntime(name, path, 1) for name, path in files.items()]
        signature = mlp(plain, 1.0, last).signature
        requests = draw(signature, batches, seed=0)
        reports = {
            calls: measure([in_a_row(c, calls) for c in contestants], requests, threads=1, seconds=seconds)
            for calls in (1, CALLS)
        }
        counted = {name: count(path) for name, path in files.items()}
        costs = {b: {name: cost_of_file(path, b).estimate for name, path in files.items()} for b in batches}
    widths = [*[WIDTH] * (LAYERS + 1), *[1] * last]
    told = [f"**{'-'.join(map(str, widths))}, {1 - share:.0%} zeros**"]
    for calls, report in reports.items():
        told.append(
            f"{calls} call{'s' if calls > 1 else ''} in turn, ms and times faster:\n\n{_speed_table(report, calls)}"
        )
    print("\n\n".join(told), end="\n\n", flush=True)
    return {
        "told": "\n\n".join(told),
        "bytes": {name: each.bytes for name, each in counted.items()},
        "nonzero": {name: each.rest.nonzero for name, each in counted.items()},
        "milliseconds": {
            str(calls): {
                name: {str(b): _milliseconds(report, b, name, calls) for b in batches} for name in report.contestants
            }
            for calls, report in reports.items()
        },
        "estimated times faster": {
            name: {str(b): costs[b][DENSE] / costs[b][name] for b in batches} for name in files if name != DENSE
        },
        "times faster": {str(calls): _ratios(report) for calls, report in reports.items()},
    }


def _milliseconds(report: LatencyReport, batch: int, name: str, calls: int) -> float:
    """The percentile that other work on the machine disturbs least."""
    return float(np.percentile(report.samples[batch][name], PERCENT)) / calls


def _ratios(report: LatencyReport) -> dict[str, Any]:
    return {
        name: {str(batch): vars(times_faster(report, batch, name)) for batch in report.samples}
        for name in report.contestants
        if name != DENSE
    }


def _speed_table(report: LatencyReport, calls: int) -> str:
    batches = list(report.samples)
    lines = [f"| | {' | '.join(f'batch {batch}' for batch in batches)} |", f"|---|{'---:|' * len(batches)}"]
    for name in report.contestants:
        cells = []
        for batch in batches:
            ratio = times_faster(report, batch, name) if name != DENSE else None
            told = "" if ratio is None else f" ({ratio.estimate:.1f}× [{ratio.low:.1f}, {ratio.high:.1f}])"
            cells.append(f"{_milliseconds(report, batch, name, calls):.3f}{told}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def quality(
    folder: Path, cache: Path, sparsity: float, seeds: int, seconds: float, epochs: int, only: str
) -> list[dict[str, Any]]:
    """Measure the DLRM, trained for so many epochs, with every seed and the methods that have `only` in their names."""
    zeros = Settings(sparsity=sparsity, embedding_sparsity=0.0, structured_share=0.0, epochs=1, batches=(64, 256))
    methods = {"element": zeros}
    methods |= {f"tile {tile}": replace(zeros, pattern="tile", tile=tile) for tile in TILES}
    methods |= {f"channels {s:g}": replace(zeros, sparsity=s, structured_share=1.0) for s in (*EQUAL_LATENCY, sparsity)}
    rows = []
    for seed in range(seeds):
        own = {name: replace(settings, seed=seed) for name, settings in methods.items() if only in name}
        checkpoint = cache / f"dlrm-{'-'.join(map(str, HIDDEN))}-{epochs}-{seed}.pt"
        if not checkpoint.exists():
            cache.mkdir(parents=True, exist_ok=True)
            wishes = Wishes(labels=("label",), ignore=("rating",))
            train(folder / "anime.parquet", "dlrm", checkpoint, wishes, {"hidden": HIDDEN}, seed=seed, epochs=epochs)
        rows += _quality(folder / "anime.parquet", checkpoint, own, seconds)
    return rows


def _quality(data: Path, checkpoint: Path, methods: Mapping[str, Settings], seconds: float) -> list[dict[str, Any]]:
    loaded = load(checkpoint, None, {})
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        files = {DENSE: export_onnx(loaded.program, Path(scratch) / "dense.onnx", serving=Serving((64, 256))).path}
        for number, (name, settings) in enumerate(methods.items()):
            task = make_task(loaded, data, (), settings)
            if not rows:
                rows.append(_row(DENSE, settings.seed, loaded.program, task, files[DENSE]))
            pruned = prune(loaded.program, settings, task)
            files[name] = export_pruned(pruned, settings, Path(scratch) / f"{number}.onnx").path
            rows.append(_row(name, settings.seed, pruned.program, task, files[name]))
        requests = draw(loaded.program.signature, (64, 256), seed=0)
        contestants = [in_a_row(in_onnxruntime(name, path, 1), CALLS) for name, path in files.items()]
        report = measure(contestants, requests, threads=1, seconds=seconds)
    for row in rows:
        row["milliseconds"] = {str(b): _milliseconds(report, b, row["method"], CALLS) for b in report.samples}
        row["times faster"] = {str(b): times_faster(report, b, row["method"]).estimate for b in report.samples}
    return rows


def _row(name: str, seed: int, program: Program, task: Any, path: Path) -> dict[str, Any]:
    program.set_training(False)
    auc = primary(task.test(lambda request: answer(program, request)))[1]
    print(f"{name:>28} seed {seed}: AUC {auc:.4f}", flush=True)
    counted = count(path)
    return {"method": name, "seed": seed, "auc": auc, "nonzero": counted.rest.nonzero, "bytes": counted.bytes}


def _quality_table(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| | AUC | non-zeros of the rest | batch 64 | batch 256 |", "|---|---:|---:|---:|---:|"]
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        auc = sum(row["auc"] for row in own) / len(own)
        cells = [
            f"{sum(row['milliseconds'][b] for row in own) / len(own):.3f} ms "
            f"({sum(row['times faster'][b] for row in own) / len(own):.1f}×)"
            for b in ("64", "256")
        ]
        lines.append(f"| {name} | {auc:.4f} | {own[0]['nonzero']:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command(help=__doc__.splitlines()[0])
@click.option("--share", default=0.1, show_default=True, help="Of the weights of the MLP that stay; 0 leaves it out.")
@click.option("--batches", default=BATCHES, show_default=True, help="Of the MLP.")
@click.option("--seconds", default=2.0, show_default=True, help="For each batch size and kind of turns.")
@click.option("--data-folder", type=click.Path(path_type=Path), help="Where anime.parquet is; nothing: no quality.")
@click.option("--cache", default=Path("artifacts/tiles"), show_default=True, type=click.Path(path_type=Path))
@click.option("--sparsity", default=0.9, show_default=True, help="Of the DLRM outside of tables.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--only", default="", help="Methods with this in their names.")
@click.option(
    "--write", type=click.Path(path_type=Path), default=DOCS, show_default="docs/", help="Folder of results.md."
)
@click.option("--epochs", default=15, show_default=True, help="At most, in which the dense DLRM is trained.")
def main(
    share: float,
    batches: str,
    seconds: float,
    data_folder: Path | None,
    cache: Path,
    sparsity: float,
    seeds: int,
    only: str,
    write: Path,
    epochs: int,
) -> None:
    """Measure what is asked for."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    if share:
        speeds = {
            name: speed(share, batch_sizes(batches), seconds, last)
            for name, last in (("speed", False), ("speed with a last unit", True))
        }
        tables = [found.pop("told") for found in speeds.values()]
        results |= speeds
        where = told_of_machine(environment(), threads=1)
        write_section(write / "results.md", "Tiles", "benchmarks/bench_tiles.py", "\n\n".join([INTRO, *tables, where]))
    if data_folder is not None:
        results["quality"] = quality(data_folder, cache, sparsity, seeds, seconds, epochs, only)
        print(
            f"\nDLRM {'-'.join(map(str, HIDDEN))}, {sparsity:.0%} of the rest zero or gone\n{_quality_table(results['quality'])}"
        )
    print(json.dumps({"benchmark": "tiles", "environment": environment(), "threads": 1, "results": results}))


if __name__ == "__main__":
    main()
