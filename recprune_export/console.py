"""What the commands print: tables for people, JSON for programs."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from recprune_export.bundle.verify import Verification
    from recprune_export.compression import Result
    from recprune_export.inspection import Inspection
    from recprune_export.training.train import Training
    from recprune_export.validation.latency import LatencyReport


def print_training(training: "Training", *, as_json: bool) -> None:
    """Say how training went and what came of it."""
    checkpoint = training.checkpoint
    if as_json:
        values = {
            "checkpoint": str(training.path),
            "recommender": checkpoint.recommender,
            "parameters": training.parameters,
            "training_rows": training.rows,
            "test": dict(checkpoint.metrics),
            "notes": list(training.notes),
            **training.fitted.to_dict(),
        }
        return _print_json(values)
    console = _console()
    _print_notes(training.notes)
    epochs = _table(
        f"{checkpoint.recommender}, {training.rows:,} training rows", "epoch", "training loss", "validation", ""
    )
    for number, epoch in enumerate(training.fitted.epochs):
        kept = "kept" if number == training.fitted.best else ""
        epochs.add_row(str(number + 1), f"{epoch.loss:.4f}", f"{epoch.metric:.4f}", kept)
    console.print(epochs)
    metrics = ", ".join(f"{name} {value:.4f}" for name, value in checkpoint.metrics.items())
    console.print(f"Test: {metrics}", highlight=False)
    console.print(f"{training.parameters:,} parameters in {training.path}", highlight=False, soft_wrap=True)
    console.print(f"Next: recprune-export {training.path} --sparsity 0.7 --data FILE", highlight=False, soft_wrap=True)


def print_result(result: "Result", *, as_json: bool) -> None:
    """Say what was made, how small, how good and how fast it is."""
    if as_json:
        return _print_json(result.manifest.to_dict())
    console = _console()
    console.print(_sizes(result))
    if result.metrics["dense"]:
        console.print(_quality(result.metrics, result.manifest.settings["data"]))
    console.print(_latency(result.latency))
    for output in result.parity.outputs:
        console.print(
            f"Parity of '{output.name}' over {result.parity.rows} rows: largest error {output.max_absolute:.1e}, "
            f"relative {output.max_relative:.1e}",
            highlight=False,
        )
    soundness = result.manifest.plan["soundness"]
    console.print(f"Pruned equals masked to {soundness['error']:.1e} in float64", highlight=False)
    _print_notes(result.notes)
    console.print(f"Bundle: {result.target} (ONNX opset {result.manifest.opset})", highlight=False, soft_wrap=True)
    console.print(f"Next: recprune-export verify {result.target}", highlight=False, soft_wrap=True)


def print_inspection(inspection: "Inspection", *, as_json: bool) -> None:
    """Show inputs, parameters, groups and frozen axes."""
    if as_json:
        return _print_json(inspection.to_dict())
    console = _console()
    signature = inspection.signature
    tensors = _table(f"{inspection.name}: {inspection.kind}", "", "name", "dtype", "shape", "ids")
    for kind, tensor in [("input", t) for t in signature.to_dict()["inputs"]] + [
        ("output", t) for t in signature.to_dict()["outputs"]
    ]:
        shape = " × ".join(str(size) for size in tensor["shape"])
        tensors.add_row(kind, tensor["name"], tensor["dtype"], shape, _ids(tensor.get("ids", [])))
    console.print(tensors)
    sizes = inspection.sizes
    console.print(
        f"Parameters: {sizes.tables:,} in tables, {sizes.rest:,} in the rest; "
        f"{inspection.prunable_share:.1%} of them lie in channels that can be removed",
        highlight=False,
    )
    groups = _table("Channel groups", "group", "kind", "width", "lies on")
    for group in inspection.groups:
        axes = [f"{tensor}:{axis}" for tensor, axis in group.axes()]
        more = f" and {len(axes) - 3} more" if len(axes) > 3 else ""
        groups.add_row(group.name, group.kind, str(group.width), ", ".join(axes[:3]) + more)
    console.print(groups)
    if inspection.frozen:
        frozen = _table("Frozen", "reason", "axes (indices)")
        for reason, found in inspection.frozen_by_reason().items():
            places = ", ".join(f"{axis.tensor}:{axis.axis} ({axis.count})" for axis in found[:4])
            frozen.add_row(reason, places + (f" and {len(found) - 4} more" if len(found) > 4 else ""))
        console.print(frozen)


def print_verification(verification: "Verification", *, as_json: bool) -> None:
    """Say what was checked."""
    if as_json:
        return _print_json(asdict(verification))
    worst = max((output.max_absolute for output in verification.outputs), default=0.0)
    click.echo(
        f"{verification.name}: {verification.files} files ({verification.bytes:,} bytes) as the manifest says; "
        f"ONNX Runtime gives the golden outputs of {verification.rows} rows to {worst:.1e}. {verification.seconds:.2f} s"
    )


def _sizes(result: "Result") -> "Table":
    table = _table("Size, counted in the ONNX files", "", "dense", "pruned", "non-zero", "gone")
    dense, pruned, gone = result.counts["dense"], result.counts["pruned"], result.reduction
    for part, share in (("tables", gone.tables), ("rest", gone.rest)):
        before, after = getattr(dense, part), getattr(pruned, part)
        table.add_row(part, f"{before.parameters:,}", f"{after.parameters:,}", f"{after.nonzero:,}", f"{share:.1%}")
    for name, share in (("operations", gone.operations), ("bytes", gone.bytes)):
        table.add_row(name, f"{getattr(dense, name):,}", f"{getattr(pruned, name):,}", "", f"{share:.1%}")
    return table


def _quality(metrics: Mapping[str, Mapping[str, float]], data: str) -> "Table":
    table = _table(f"Quality on test rows of {data}, in ONNX Runtime", "", "dense", "pruned", "change")
    for name, dense in metrics["dense"].items():
        pruned = metrics["pruned"][name]
        table.add_row(name, f"{dense:.4f}", f"{pruned:.4f}", f"{pruned - dense:+.4f}")
    return table


def _latency(report: "LatencyReport") -> "Table":
    batches = list(report.samples)
    threads = f"{report.threads} thread" + ("s" if report.threads > 1 else "")
    table = _table(f"Latency in ms, p50 / p95 / p99, {threads}", "", *(f"batch {batch}" for batch in batches))
    for name in report.contestants:
        times = [report.percentiles(batch, name) for batch in batches]
        table.add_row(name, *(f"{t.p50:.3f} / {t.p95:.3f} / {t.p99:.3f}" for t in times))
    last = report.contestants[-1]
    for name in report.contestants[:-1]:
        ratios = [report.ratio(batch, name, last) for batch in batches]
        cells = [f"{r.estimate:.2f}× [{r.low:.2f}, {r.high:.2f}]" for r in ratios]
        table.add_row(f"{name} : {last}", *cells)
    return table


def _print_notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        click.echo(f"Note: {note}", err=True)


def _ids(ranges: list[Any]) -> str:
    words = ["–" if pair is None else f"{pair[0]} to {pair[1]}" for pair in ranges]
    return "; ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")


def _table(title: str, *columns: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
    return table


def _console() -> "Console":
    from rich.console import Console

    console = Console()
    # A pipe has no width; 80 columns would break the tables of a log.
    return console if console.is_terminal else Console(width=140)


def _print_json(values: Any) -> None:
    click.echo(json.dumps(values, indent=1))
