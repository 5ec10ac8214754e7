"""The latency of five recommenders: PyTorch, PyTorch's own export, Torch-Pruning, int8 of ONNX Runtime, a small model, ours.

    python benchmarks/latency.py [--models dlrm,deepfm] [--latency-batch-sizes 1,32,256,1024] [--threads 1,2] [--seconds 3]

Untrained weights, structure alone removed, at random: latency does not depend on which channels go. Contestants of one
model, batch and number of threads are measured as the main job does: in turns, on another request each round, in new
sessions. What cannot take part is named, with the reason. Measurements with the same versions and options are kept in --cache, so that
one model can be measured again. Writes tables and a plot of all that is known into docs/ (or where --write says), prints the same, and
JSON as the last line.

The small model has the same architecture with fewer dimensions and narrower layers: the largest that has no more parameters
than ours, in the tables and in the rest. It is exported by PyTorch, and by this project in fp32 and int8. Untrained weights
cannot say which small model is as good as ours. Trained from scratch at these sizes it is not better (benchmarks/quality.py),
so a small model of equal quality is at least as large, and as slow.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from models import MODELS, ONE_WIDTH, Model, find_size, make
from plain import export_plain, prune_plain, quantize_plain
from results import keep, kept, write_section
from torch import nn

from recprune_export.environment import environment
from recprune_export.evidence import Estimate
from recprune_export.onnx import ServingConfig, count, export_onnx
from recprune_export.program import Program
from recprune_export.program.capture import capture
from recprune_export.pruning import Budget, apply_plan, make_plan, rank_by
from recprune_export.quantization import make_error_judge, quantize
from recprune_export.validation import (
    Backend,
    LatencyReport,
    RequestCycle,
    count_requests,
    make_onnxruntime_backend,
    measure_latency,
    torch_threads,
)
from recprune_export.validation.edge_requests import RequestArrays

REFERENCE = "plain dense ONNX"
SPARSITIES = (0.7, 0.9)
DOCS = Path(__file__).parent.parent / "docs"
KEPT = "latency.jsonl"

WIDE = 0.2  # of the answers' variance: untrained weights say nothing of what int8 costs in quality
CALIBRATION = (8, 64)  # requests, rows


@dataclass(frozen=True)
class Prepared:
    """Files and modules of one model; `left_out` says why something is not there."""

    name: str
    model: Model
    compiled: nn.Module
    files: Mapping[str, Path]
    parameters: Mapping[str, int]
    left_out: Mapping[str, str]
    program: Program


def prepare(name: str, sparsities: tuple[float, ...], serving: ServingConfig, scratch: Path, others: bool) -> Prepared:
    """Export everything that takes part."""
    model = make(name)
    program = capture(model.module, (), dict(model.example))
    files = {REFERENCE: export_plain(model, scratch / f"{name}-dense.onnx")}
    left_out: dict[str, str] = {}
    if others:
        files["dense, ONNX Runtime's int8"] = quantize_plain(files[REFERENCE])
    for sparsity in sparsities:
        pruned = prune(program, sparsity)
        ours = f"ours .{sparsity * 10:.0f}"
        plain = export_onnx(pruned, scratch / f"{name}-{sparsity}.onnx", serving=serving).path
        files |= {f"{ours} fp32": plain, f"{ours} int8": quantized(model, plain, serving)}
        theirs, path = f"Torch-Pruning .{sparsity * 10:.0f}", scratch / f"{name}-{sparsity}-theirs.onnx"
        if not others:
            continue
        if name in ONE_WIDTH:
            left_out["A small model"] = "its tables are as wide as its layers, so it has no size like that of ours"
        else:
            small = make(name, find_size(name, _tables(pruned), _rest(pruned)))
            files |= small_files(
                small, scratch / f"{name}-{sparsity}-small.onnx", f"small .{sparsity * 10:.0f}", serving
            )
        if "Torch-Pruning" in left_out:  # what ended without a model once is not tried again
            continue
        if reason := prune_plain(name, _rest(pruned), path):
            left_out["Torch-Pruning"] = f"at sparsity {sparsity:g}: {reason}"
        else:
            files |= {theirs: path, f"{theirs}, ONNX Runtime's int8": quantize_plain(path)}
    parameters = {label: count(path).total.parameters for label, path in files.items()}
    return Prepared(name, model, torch.compile(model.module), files, parameters, left_out, program)


def prune(program: Program, sparsity: float) -> Program:
    """Remove so much of the structure, the same share of every group of a kind."""
    analysis = program.analysis
    generator = torch.Generator().manual_seed(0)
    rankings = rank_by({g.name: torch.rand(g.width, generator=generator) for g in analysis.groups})
    budget = Budget(sparsity, sparsity, table_structured_fraction=1.0, rest_structured_fraction=1.0)
    return apply_plan(program, make_plan(program, rankings, budget, "random", "uniform"))


def small_files(model: Model, path: Path, label: str, serving: ServingConfig) -> dict[str, Path]:
    """Export a small model in three ways."""
    program = capture(model.module, (), dict(model.example))
    ours = export_onnx(program, path, serving=serving).path
    return {
        f"{label} plain": export_plain(model, path.with_name(f"{path.stem}-plain.onnx")),
        f"{label} fp32": ours,
        f"{label} int8": quantized(model, ours, serving),
    }


def quantized(model: Model, path: Path, serving: ServingConfig) -> Path:
    """Quantize what `--quantize int8` would, by measurement at the batch sizes of serving."""
    requests, rows = CALIBRATION
    calibration = [request_of(model, rows, seed) for seed in range(requests)]
    timed = {batch: rotation_of(model, batch) for batch in serving.batches}
    target = path.with_name(f"{path.stem}-int8.onnx")
    return quantize(path, target, "int8", calibration, timed, make_error_judge(calibration, WIDE)).path


def _tables(program: Program) -> int:
    return sum(program.parameters()[name].numel() for name in program.analysis.tables)


def _rest(program: Program) -> int:
    tables = program.analysis.tables
    return sum(p.numel() for name, p in program.parameters().items() if name not in tables)


def contest(prepared: Prepared, batches: tuple[int, ...], threads: int, seconds: float, eager: bool) -> LatencyReport:
    """Let all contestants take turns on each batch size."""
    requests = {batch: rotation_of(prepared.model, batch) for batch in batches}
    contestants = [make_onnxruntime_backend(label, path, threads) for label, path in prepared.files.items()]
    with torch_threads(threads), torch.inference_mode():
        if eager:
            contestants = [
                _in_torch("PyTorch", prepared.model.module),
                _in_torch("torch.compile", prepared.compiled),
                *contestants,
            ]
        return measure_latency(contestants, requests, threads=threads, seconds=seconds)


def rotation_of(model: Model, batch: int) -> RequestCycle:
    """Draw different requests of so many rows, of which each round has the next one."""
    return [request_of(model, batch, seed) for seed in range(count_requests(batch))]


def request_of(model: Model, batch: int, seed: int) -> RequestArrays:
    """Draw a request of so many rows."""
    rng = np.random.default_rng(seed)
    request = {}
    for name, example in model.example.items():
        shape = (batch, *example.shape[1:])
        whole = not example.is_floating_point()
        most = 10_000  # rows of every table
        request[name] = rng.integers(1, most, size=shape) if whole else rng.normal(size=shape).astype(np.float32)
    return request


def _in_torch(name: str, module: nn.Module) -> Backend:
    def once(request: RequestArrays) -> object:
        return module(**{key: torch.from_numpy(values) for key, values in request.items()})

    return Backend(name, once)


def times_faster(report: LatencyReport, batch: int, name: str) -> Estimate:
    """Return how many times faster than the reference a contestant is, by the protocol of the main job."""
    return report.ratio(batch, REFERENCE, name)


def table(prepared: Prepared, report: LatencyReport) -> str:
    """Return a Markdown table: median milliseconds, and how many times faster than the reference."""
    batches = list(report.samples)
    head = f"| | parameters | {' | '.join(f'batch {batch}' for batch in batches)} |"
    lines = [head, f"|---|---:|{'---:|' * len(batches)}"]
    for name in report.backends:
        cells = []
        for batch in batches:
            ratio = times_faster(report, batch, name)
            told = "" if name == REFERENCE else f" ({ratio.estimate:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}])"
            cells.append(f"{report.percentiles(batch, name).p50:.3f} ms{told}")
        parameters = prepared.parameters.get(name, prepared.parameters[REFERENCE])
        lines.append(f"| {name} | {parameters / 1e6:.2f} M | {' | '.join(cells)} |")
    notes = [f"{who}: {why}." for who, why in prepared.left_out.items()]
    return "\n".join([*lines, *([""] if notes else []), *notes])


def plot(results: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw, for each model with one thread, how many times faster than the plain dense ONNX each contestant is, by batch.

    `results` are those of the JSON line; int8 is dashed and a plain export dotted, in the color of the same contestant in fp32.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    shown = {told.split(",")[0]: result[f"times faster than {REFERENCE}"] for told, result in results.items()}
    whole = list(dict.fromkeys(_in_fp32(label) for ratios in shown.values() for label in ratios))
    colors = dict(zip(whole, pyplot.get_cmap("tab10").colors, strict=False))  # type: ignore[attr-defined]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(3.2 * len(shown) + 2.5, 3.6), sharey=True, squeeze=False)
    lines: dict[str, Any] = {}
    for axis, (name, ratios) in zip(axes[0], shown.items(), strict=True):
        for label, by_batch in ratios.items():
            batches, estimates = [int(b) for b in by_batch], [ratio["estimate"] for ratio in by_batch.values()]
            style = "--" if label.endswith("int8") else ":" if label.endswith("plain") else "-"
            (lines[label],) = axis.plot(
                batches, estimates, style, marker="o", color=colors[_in_fp32(label)],
                lw=2.5 if label.startswith("ours") else 1.2, ms=4,
            )  # fmt: skip
        axis.set(title=name, xscale="log", yscale="log", xlabel="batch")
        axis.set_xticks(batches, [str(batch) for batch in batches])
        axis.set_yticks([0.5, 1, 2, 3, 5, 10, 20], ["0.5", "1", "2", "3", "5", "10", "20"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel(f"times faster than {REFERENCE}")
    figure.legend(lines.values(), lines.keys(), loc="center right", frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0, 1 - 3.0 / figure.get_figwidth(), 1))
    figure.savefig(path, metadata={"Date": None})


def _in_fp32(label: str) -> str:
    """Return the name of the same contestant, whatever the format of its file."""
    return (
        label.removesuffix(", ONNX Runtime's int8").removesuffix(" int8").removesuffix(" fp32").removesuffix(" plain")
    )


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


@click.command(help=__doc__.splitlines()[0])
@click.option("--models", default=",".join(MODELS), show_default=True)
@click.option("--latency-batch-sizes", "batches", default="1,32,256,1024", show_default=True)
@click.option("--threads", default="1,2", show_default=True)
@click.option("--sparsities", default=",".join(map(str, SPARSITIES)), show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="For each model, batch and number of threads.")
@click.option("--eager/--no-eager", default=True, show_default=True, help="PyTorch and torch.compile take part.")
@click.option(
    "--others/--no-others",
    default=True,
    show_default=True,
    help="Torch-Pruning, ONNX Runtime's int8 and small models do.",
)
@click.option("--cache", type=click.Path(path_type=Path), default=Path("artifacts/latency"), show_default=True)
@click.option("--remark", default="", help="What a reader should know of the machine, such as other work on it.")
@click.option(
    "--write", type=click.Path(path_type=Path), default=DOCS, show_default="docs/", help="Folder of results.md."
)
def main(
    models: str,
    batches: str,
    threads: str,
    sparsities: str,
    seconds: float,
    eager: bool,
    others: bool,
    cache: Path,
    remark: str,
    write: Path,
) -> None:
    torch.set_num_threads(1)
    sizes = tuple(map(int, _names(batches)))
    machine = environment()
    asked = {"batches": batches, "sparsities": sparsities, "seconds": seconds, "eager": eager, "others": others}
    measured = {"environment": machine, "asked": asked}
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name in _names(models):
            shares = tuple(map(float, _names(sparsities)))
            prepared = prepare(name, shares, ServingConfig(batches=sizes), Path(scratch), others)
            for count_ in map(int, _names(threads)):
                report = contest(prepared, sizes, count_, seconds, eager)
                told, drawn = f"{name}, {count_} thread{'s' if count_ > 1 else ''}", table(prepared, report)
                click.echo(f"\n**{told}**\n\n{drawn}")
                result = {
                    **report.to_dict(),
                    "parameters": dict(prepared.parameters),
                    "left_out": dict(prepared.left_out),
                    f"times faster than {REFERENCE}": _ratios(report),
                }
                row = {"model": name, "threads": count_, "told": told, "table": drawn, "result": result}
                keep(cache / KEPT, {**row, **measured})
    known = _known(cache, measured)
    parts = [f"**{row['told']}**\n\n{row['table']}" for row in known]
    summary = {row["told"]: row["result"] for row in known}
    click.echo(json.dumps({"benchmark": "latency", "environment": machine, "results": summary}))
    write.mkdir(parents=True, exist_ok=True)
    plot({told: result for told, result in summary.items() if told.endswith("1 thread")}, write / "latency.svg")
    packages = ", ".join(f"{name} {machine['packages'][name]}" for name in ("torch", "onnxruntime"))
    intro = (
        f"Medians with warm caches. In brackets: the speed-up over {REFERENCE}, with 95 % intervals over new sessions. "
        "Contestants take turns in one process, with other ids in each round; "
        f"{machine['cpu']}, {machine['cores']} cores, {packages}. Weights are untrained, and channels are removed at random. "
        "Torch-Pruning does not prune tables; it removes the same number of parameters from the other layers. "
        "*Small* is a dense model of the same architecture with as many parameters as ours, in tables and in other layers, "
        "exported by PyTorch, and by us in fp32 and int8."
        f"{' ' + remark if remark else ''}\n\n"
        f"![Times faster than {REFERENCE}, by batch](latency.svg)"
    )
    write_section(write / "results.md", "Latency", "benchmarks/latency.py", "\n\n".join([intro, *parts]))


def _known(cache: Path, measured: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the newest of each model and number of threads, of those that were `measured` alike."""
    rows = [row for row in kept(cache / KEPT) if all(row.get(name) == value for name, value in measured.items())]
    newest = {(row["model"], row["threads"]): row for row in rows}
    order = list(MODELS)
    return sorted(newest.values(), key=lambda row: (order.index(row["model"]), row["threads"]))


def _ratios(report: LatencyReport) -> dict[str, Any]:
    return {
        name: {str(batch): vars(times_faster(report, batch, name)) for batch in report.samples}
        for name in report.backends
    }


if __name__ == "__main__":
    main()
