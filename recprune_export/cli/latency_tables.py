"""Tables of latency and footprint measurements, shared by several commands."""

from typing import TYPE_CHECKING

from recprune_export.cli.tables import make_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from recprune_export.validation.latency.closed_loop import LatencyReport
    from recprune_export.validation.latency.footprint import FootprintReport
    from recprune_export.validation.latency.open_loop import OpenLoopReport


def print_latency(console: "Console", report: "LatencyReport") -> None:
    console.print(_make_latency_table(report))
    for batch in report.samples:
        outliers = {name: report.outliers(batch, name) for name in report.backends}
        texts = [f"{o.count} of {name} (up to {o.largest[0][1]:.3f} ms)" for name, o in outliers.items() if o.count]
        if texts:
            console.print(f"Outliers at batch {batch}, included above: {', '.join(texts)}", highlight=False)


def _make_latency_table(report: "LatencyReport") -> "Table":
    batches = list(report.samples)
    table = make_table(
        f"Latency in ms, p50 / p95 / p99, {format_threads(report.threads)}",
        "",
        *(f"batch {batch}" for batch in batches),
    )
    for name in report.backends:
        times = [report.percentiles(batch, name) for batch in batches]
        table.add_row(name, *(f"{t.p50:.3f} / {t.p95:.3f} / {t.p99:.3f}" for t in times))
    last = report.backends[-1]
    for name in report.backends[:-1]:
        ratios = [report.ratio(batch, name, last) for batch in batches]
        cells = [f"{r.estimate:.2f}× [{r.low:.2f}, {r.high:.2f}]" for r in ratios]
        table.add_row(f"{name} : {last}", *cells)
    return table


def open_loop_table(report: "OpenLoopReport") -> "Table":
    batches = list(report.times)
    table = make_table(
        f"Latency from arrival in ms, p50 / p95 / p99, {report.qps:g} requests a second, {format_threads(report.threads)}",
        "",
        *(f"batch {batch}" for batch in batches),
    )
    for name in report.backends:
        cells = []
        for batch in batches:
            times, busy = report.percentiles(batch, name), report.times[batch][name].utilization(report.qps)
            word = "cannot keep up" if report.saturated(batch, name) else f"busy {busy:.0%}"
            cells.append(f"{times.p50:.3f} / {times.p95:.3f} / {times.p99:.3f} ({word})")
        table.add_row(name, *cells)
    return table


def footprint_table(report: "FootprintReport") -> "Table":
    from recprune_export.gate.output.finding_rows import format_amount

    table = make_table(
        f"In a fresh process, batch {report.batch}", "", "load", "first request", "memory", "peak while loading"
    )
    for name in report.runs:
        typical = report.typical(name)
        times = (format_amount(typical.load, "ms"), format_amount(typical.first_request, "ms"))
        table.add_row(name, *times, format_amount(typical.memory, "bytes"), format_amount(typical.peak, "bytes"))
    return table


def format_threads(count: int) -> str:
    return f"{count} thread" + ("s" if count > 1 else "")
