"""What the main job says: what was made, how small, how good and how fast it is."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recprune_export.console.artifact import rewrite_table
from recprune_export.console.latency import footprint_table, print_latency
from recprune_export.console.quantisation import print_quantization
from recprune_export.console.tables import make_console, make_table, print_json, print_notes, quote_for_shell

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from recprune_export.pipeline.compress import CompressionResult
    from recprune_export.validation.rare_ids import SharedRowReport


def print_result(result: "CompressionResult", *, as_json: bool) -> None:
    """Say what was made, how small, how good and how fast it is."""
    if as_json:
        return print_json(result.manifest.to_dict())

    console = make_console()
    console.print(_sizes(result))
    if result.manifest.plan["fields"]["removed"]:
        console.print(_removed_fields(**result.manifest.plan["fields"]))
    if result.metrics["dense"]:
        console.print(_quality(result.metrics, result.manifest.settings["data"]))
    if result.rows is not None:
        _print_rows(console, result.rows)
    print_latency(console, result.latency)
    console.print(footprint_table(result.footprints))
    console.print(_floors(result.manifest.cost["models"]))
    console.print(rewrite_table(result.manifest.rewrites))
    if result.manifest.quantisation:
        print_quantization(console, result.manifest.quantisation)
    for output in result.parity.outputs:
        console.print(
            f"Parity of '{output.name}' over {result.parity.rows} rows: largest error {output.max_absolute:.1e}, "
            f"relative {output.max_relative:.1e}",
            highlight=False,
        )
    stage: Mapping[str, Any] | None = result.manifest.plan
    while stage is not None:
        console.print(f"Pruned equals masked to {stage['soundness']['error']:.1e} in float64", highlight=False)
        stage = stage.get("then")
    print_notes(result.notes)
    console.print(f"Bundle: {result.target} (ONNX opset {result.manifest.opset})", highlight=False, soft_wrap=True)
    console.print(f"Next: recprune-export verify {quote_for_shell(result.target)}", highlight=False, soft_wrap=True)


def _sizes(result: "CompressionResult") -> "Table":
    table = make_table("Size, counted in the ONNX files", "", "dense", "pruned", "non-zero", "gone")
    dense, pruned, gone = result.counts["dense"], result.counts["pruned"], result.reduction
    for part, share in (("tables", gone.tables), ("rest", gone.rest)):
        before, after = getattr(dense, part), getattr(pruned, part)
        table.add_row(part, f"{before.parameters:,}", f"{after.parameters:,}", f"{after.nonzero:,}", f"{share:.1%}")
    for name, share in (("operations", gone.operations), ("bytes", gone.bytes)):
        table.add_row(name, f"{getattr(dense, name):,}", f"{getattr(pruned, name):,}", "", f"{share:.1%}")
    return table


def _removed_fields(removed: Sequence[str], importance: Mapping[str, float]) -> "Table":
    table = make_table("Fields removed; their inputs stay and are ignored", "field", "rise of the loss without it")
    for name in removed:
        table.add_row(name, f"{importance[name]:+.2e}" if name in importance else "not measured")
    return table


def _quality(metrics: Mapping[str, Mapping[str, float]], data: str) -> "Table":
    table = make_table(f"Quality on test rows of {data}, in ONNX Runtime", "", "dense", "pruned", "change")
    for name, dense in metrics["dense"].items():
        pruned = metrics["pruned"][name]
        table.add_row(name, f"{dense:.4f}", f"{pruned:.4f}", f"{pruned - dense:+.4f}")
    return table


def _print_rows(console: "Console", report: "SharedRowReport") -> None:
    """Show which tables lost rows, which could not, and what it does to the requests that show such an id."""
    tables = make_table("Rows: rare ids share one", "table", "ids from", "rows before", "rows")
    for table in report.tables:
        tables.add_row(table.table, ", ".join(table.inputs), f"{table.before:,}", f"{table.after:,}")
    console.print(tables)
    for refusal in report.refused:
        console.print(
            f"'{refusal.table}' keeps all rows: {refusal.reason}", highlight=False, soft_wrap=True, markup=False
        )
    parts = {"with a rare id": report.with_rare, "without": report.without_rare}
    quality = make_table("Quality by kind of test row", "test rows", "", "dense", "pruned", "change")
    for said, part in parts.items():
        dense, pruned = part.metrics.get("dense", {}), part.metrics.get("pruned", {})
        for name, value in pruned.items():
            before = dense.get(name)
            known = ("", f"{value:.4f}", "") if before is None else (
                f"{before:.4f}", f"{value:.4f}", f"{value - before:+.4f}"
            )  # fmt: skip
            quality.add_row(f"{part.rows:,} {said}", name, *known)
    console.print(quality)
    console.print(
        f"Shared rows equal overwritten ones to {report.soundness.error:.1e} in float64; the remaps of ids take "
        f"{report.remap_bytes:,} bytes of the file",
        highlight=False,
    )


def _floors(models: Mapping[str, Any]) -> "Table":
    batches = list(next(iter(models.values())))
    table = make_table(
        "Floor of this machine in ms, and the median as a multiple of it", "", *(f"batch {b}" for b in batches)
    )
    for name, costs in models.items():
        table.add_row(f"{name} ONNX", *(f"{costs[b]['floor']:.3f}, {costs[b]['multiple']:.1f}×" for b in batches))
    return table
