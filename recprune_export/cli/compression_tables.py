"""Tables of the main job: size, quality, speed and quantization of a bundle."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recprune_export.cli.headline import print_headline, print_line
from recprune_export.cli.latency_tables import footprint_table, print_latency
from recprune_export.cli.tables import (
    format_figure,
    make_console,
    make_table,
    print_json,
    print_notes,
    prints_after_work,
    quote_for_shell,
    rewrite_table,
)
from recprune_export.evidence import Estimate, Verdict
from recprune_export.number_formats import (
    format_bytes,
    format_estimate,
    format_ratio,
    format_share,
    format_significant,
    format_speed,
)

MIN_ZEROED = 0.01  # of the dense parameters: fewer zeros are not printed
MAX_PACKED = 256_000_000  # the largest file that is packed to count its compressed bytes
VERDICT_TEXTS = {verdict.words: verdict.text for verdict in Verdict}

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from recprune_export.cli.loss_advice import Advice
    from recprune_export.pipeline.compress import CompressionResult
    from recprune_export.validation.rare_ids import SharedRowReport


@prints_after_work
def print_result(
    result: "CompressionResult",
    *,
    as_json: bool,
    verbose: bool = False,
    advice: Sequence["Advice"] = (),
    baseline: Path | None = None,
) -> None:
    """Print the size, speed and quality of a new bundle, all tables if `verbose`, and the next commands.

    `baseline` is the bundle with which `check` compares, if it is known.
    """
    from recprune_export.bundle._verify import read_manifest

    if as_json:
        return print_json({"output": result.target, "manifest": read_manifest(result.target).to_dict()})

    console = make_console()
    print_headline(result)
    if verbose:
        print_tables(console, result)
    print_notes(tuple(note for note in result.notes if note not in result.warnings))
    print_next_commands(result.target, verbose=verbose, baseline=baseline)
    for entry in advice:
        console.print(f"{entry.label}:\n    {entry.command}", highlight=False, soft_wrap=True)


def print_next_commands(target: Path, *, verbose: bool, baseline: Path | None = None) -> None:
    """Print the paths of a bundle and its report page, and commands that verify, use, check and show it."""
    from recprune_export.bundle.manifest.manifest import REPORT

    quoted, page = quote_for_shell(target), target / REPORT
    print_line("Bundle", str(target))
    if page.exists():
        print_line("Report", str(page))
    print_line("Next", f"recprune-export verify {quoted}")
    print_line("", f"recprune-export predict {quoted} --data ROWS.parquet -o scores.parquet")
    against = "BASELINE" if baseline is None else quote_for_shell(baseline)
    print_line("", f"recprune-export check {quoted} --against {against}")
    print_line("", f"recprune-export report {quoted} --open")
    if not verbose:
        print_line("", "(--verbose prints all tables: counts, metrics, latency, rewrites, parity)", "dim")


def print_tables(console: "Console", result: "CompressionResult") -> None:
    """Print the counts and measurements."""
    console.print(_make_size_table(result))
    if result.sizes is not None:
        console.print(f"Rows: {result.sizes}", highlight=False, soft_wrap=True, markup=False)
    if result.manifest.plan["fields"]["removed"]:
        console.print(_make_field_table(**result.manifest.plan["fields"]))
    if result.metrics["dense"]:
        console.print(_make_quality_table(result))
    if result.rows is not None:
        _print_rows(console, result.rows)
    print_latency(console, result.latency)
    if result.footprints is not None:
        console.print(footprint_table(result.footprints))
    console.print(_make_floor_table(result.manifest.cost["models"], result.latency.clock))
    console.print(rewrite_table(result.manifest.rewrites))
    if result.manifest.quantization:
        print_quantization(console, result.manifest.quantization)
    if result.manifest.models:
        console.print(_make_derived_table(result.manifest.models))
    for output in result.parity.outputs:
        console.print(
            f"Parity of '{output.name}' over {result.parity.rows} rows: relative error at most {output.max_relative:.1e}, "
            f"absolute error at most {output.max_absolute:.1e}, for {output.worst}",
            highlight=False,
        )
    stage: Mapping[str, Any] | None = result.manifest.plan
    while stage is not None:
        console.print(
            f"The pruned model equals the masked model to within {stage['soundness']['error']:.1e} in float64",
            highlight=False,
        )
        stage = stage.get("then")
    console.print(f"ONNX opset {result.manifest.opset}", highlight=False)


def _make_size_table(result: "CompressionResult") -> "Table":
    title = "Size, counted in the ONNX files; zeros make only packed files smaller, and no file faster"
    table = make_table(title, "", "dense", "pruned", "removed", "zero", "removed or zero")
    dense, pruned, reduction = result.counts["dense"], result.counts["pruned"], result.reduction
    for section, label in (("tables", "parameters, tables"), ("rest", "parameters, rest")):
        before, after = (getattr(counts, section) for counts in (dense, pruned))
        fractions = (getattr(of, section) for of in (reduction.removed, reduction.zeroed, reduction))
        table.add_row(label, f"{before.parameters:,}", f"{after.parameters:,}", *map(format_share, fractions))
    share = format_share(reduction.operations) if dense.operations_complete and pruned.operations_complete else ""
    table.add_row("multiply-adds per row", dense.format_operations(), pruned.format_operations(), share, "", "")
    sizes = (format_bytes(counts.bytes) for counts in (dense, pruned))
    table.add_row("file", *sizes, format_share(reduction.bytes), "", "")
    packed = _count_packed_bytes(result) if reduction.zeroed.parameters > MIN_ZEROED else None
    if packed is not None:
        table.add_row("file, compressed with zstd", "", format_bytes(packed), "", "", "")
    return table


def _count_packed_bytes(result: "CompressionResult") -> int | None:
    """Return the bytes of the model file in a packed bundle; None without zstandard, or for a file that would take too long."""
    from recprune_export.bundle.archive.packing import NoZstandard, count_packed_bytes
    from recprune_export.bundle.manifest.manifest import MODEL

    files = [path for path in (result.target / MODEL, result.target / f"{MODEL}.data") if path.is_file()]
    if sum(path.stat().st_size for path in files) > MAX_PACKED:
        return None
    try:
        return count_packed_bytes(files)
    except NoZstandard:
        return None


def _make_derived_table(models: Mapping[str, Any]) -> "Table":
    """Return the times of the derived ONNX files; `models` is the section of the manifest."""
    batches = list(next(iter(models.values()))["latency"]["milliseconds"])
    headings = [f"batch {batch}, ms (ratio to model.onnx)" for batch in batches]
    table = make_table("Other ONNX files", "", "load, ms", *headings)
    for name, entry in models.items():
        latency, cells = entry["latency"], []
        for batch in batches:
            ratio = Estimate(**latency["ratios"][batch][f"{name} / model.onnx"])
            cells.append(f"{latency['milliseconds'][batch][name]['p50']:.3f} ({format_ratio(ratio)})")
        table.add_row(name, f"{entry['load_milliseconds'][name]:.1f}", *cells)
    return table


def _make_field_table(removed: Sequence[str], importance: Mapping[str, float]) -> "Table":
    table = make_table(
        "Removed fields; their inputs remain and are ignored", "field", "increase of the loss without it"
    )
    for name in removed:
        table.add_row(name, f"{importance[name]:+.2e}" if name in importance else "not measured")
    return table


def _make_quality_table(result: "CompressionResult") -> "Table":
    data, changes = result.manifest.settings["data"], result.manifest.changes
    table = make_table(f"Quality on test rows of {data}, in ONNX Runtime", "", "dense", "pruned", "change [95 %]")
    for name, dense in result.metrics["dense"].items():
        pruned = result.metrics["pruned"][name]
        change = Estimate(pruned - dense, *changes[name]["interval"])
        table.add_row(name, f"{dense:.4f}", f"{pruned:.4f}", format_estimate(change))
    return table


def _print_rows(console: "Console", report: "SharedRowReport") -> None:
    """Print the number of tables with and without shared rows, and the quality of requests with and without a rare id."""
    tables = make_table("Tables in which rare ids share one row", "table", "ids from", "rows before", "rows")
    for table in report.tables:
        tables.add_row(table.table, ", ".join(table.inputs), f"{table.before:,}", f"{table.after:,}")
    console.print(tables)
    for refusal in report.refused:
        console.print(
            f"'{refusal.table}' keeps all rows: {refusal.reason}", highlight=False, soft_wrap=True, markup=False
        )
    groups = {"with a rare id": report.with_rare, "without": report.without_rare}
    quality = make_table("Quality by kind of test row", "test rows", "", "dense", "pruned", "change")
    for description, group in groups.items():
        dense, pruned = group.metrics.get("dense", {}), group.metrics.get("pruned", {})
        for name, value in pruned.items():
            before = dense.get(name)
            cells = ("", f"{value:.4f}", "") if before is None else (
                f"{before:.4f}", f"{value:.4f}", f"{value - before:+.4f}"
            )  # fmt: skip
            quality.add_row(f"{group.rows:,} {description}", name, *cells)
    console.print(quality)
    console.print(
        f"Shared rows equal overwritten rows to within {report.soundness.error:.1e} in float64; the remaps of ids take "
        f"{format_bytes(report.remap_bytes)} of the file",
        highlight=False,
    )


def _make_floor_table(models: Mapping[str, Any], clock: str) -> "Table":
    batches = list(next(iter(models.values())))
    measured = "mean over sessions of the median" + ("" if clock == "wall" else " CPU time")
    table = make_table(
        f"Least possible time (floor) on this machine in ms, and {measured} as a multiple of it",
        "",
        *(f"batch {b}" for b in batches),
    )
    for name, costs in models.items():
        table.add_row(f"{name} ONNX", *(_format_floor(costs[batch]) for batch in batches))
    return table


def _format_floor(cost: Mapping[str, Any]) -> str:
    return f"{format_significant(cost['floor'])}, {format_ratio(Estimate(cost['multiple'], *cost['interval']))}"


def print_quantization(console: "Console", section: Mapping[str, Any]) -> None:
    """Print the section `quantization` of a manifest."""
    for title, choices in (("Linear layers", section["layers"]), ("Tables", section["tables"])):
        if choices:
            console.print(_make_choice_table(f"{title}, quantized for {section['mode']}", choices))
    sizes, loss = section["bytes"], section["loss"]
    interval = loss["interval"]
    doubt = "" if interval is None else f" (95 % interval {interval[0]:+.5f} to {interval[1]:+.5f})"
    speeds = [f"batch {batch} {format_speed(_read_estimate(ratio))}" for batch, ratio in section["speedups"].items()]
    console.print(
        f"Quantized: {' to '.join(format_bytes(sizes[key]) for key in ('before', 'after'))}; "
        f"{loss['metric']} drops by {loss['lost']:.5f}{doubt}, at most "
        f"{loss['limit']:g} allowed: {VERDICT_TEXTS[loss['verdict']]}; error of the outputs {section['error']:.2%} of their spread"
        + (f"; compared with fp32: {', '.join(speeds)}" if speeds else ""),
        highlight=False,
        markup=False,
    )


def _read_estimate(values: Mapping[str, float]) -> Estimate:
    return Estimate(values["estimate"], values["low"], values["high"])


def _make_choice_table(title: str, choices: Sequence[Mapping[str, Any]]) -> "Table":
    batches = next((list(choice["speedups"]) for choice in choices if choice["speedups"]), [])
    table = make_table(title, "", "shape", "form", *(f"batch {batch}" for batch in batches), "error", "size", "")
    for choice in choices:
        speeds = [format_figure(choice["speedups"].get(batch), ".2f") for batch in batches]
        sizes = "→".join(map(format_bytes, dict.fromkeys(choice["bytes"])))
        shape = "×".join(map(str, choice["shape"]))
        table.add_row(
            choice["name"],
            shape,
            choice["form"],
            *speeds,
            format_figure(choice["error"], ".1e"),
            sizes,
            choice["reason"],
        )
    return table
