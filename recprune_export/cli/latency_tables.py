"""Tables of latency and footprint measurements, shared by several commands."""

from typing import TYPE_CHECKING

from recprune_export.cli.tables import make_table
from recprune_export.number_formats import format_bytes, format_ratio, format_turns

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from recprune_export.validation.latency.closed_loop import LatencyReport
    from recprune_export.validation.latency.footprint import FootprintReport
    from recprune_export.validation.latency.open_loop import OpenLoopReport


def print_latency(console: "Console", report: "LatencyReport") -> None:
    console.print(_make_latency_table(report))
    if report.cold:
        console.print(_make_cold_table(report))
    for batch in report.samples:
        outliers = {name: report.outliers(batch, name) for name in report.backends}
        texts = [f"{o.count} of {name} (up to {o.largest[0][1]:.3f} ms)" for name, o in outliers.items() if o.count]
        if texts:
            console.print(f"Outliers at batch {batch}, included above: {', '.join(texts)}", highlight=False)
    if report.turns:
        turns = [f"{format_turns(of)} at batch {batch}" for batch, of in report.turns.items()]
        console.print(f"Measured in {', '.join(turns)}", highlight=False)
    if report.cpu:
        waits = [_describe_waiting(report, batch) for batch in report.samples]
        console.print(f"Involuntary context switches: {', '.join(waits)}", highlight=False)


def _describe_waiting(report: "LatencyReport", batch: int) -> str:
    waiting = f" (waited {report.waiting(batch):.1%} of the time)" if report.threads == 1 else ""
    return f"{report.preemptions[batch]:,} at batch {batch}{waiting}"


def _make_latency_table(report: "LatencyReport") -> "Table":
    batches = list(report.samples)
    table = make_table(
        f"Latency in ms, p50 / p95 / p99, {format_threads(report.threads)}, warm caches",
        "",
        *(f"batch {batch}" for batch in batches),
    )
    for name in report.backends:
        times = [report.percentiles(batch, name) for batch in batches]
        table.add_row(name, *(f"{t.p50:.3f} / {t.p95:.3f} / {t.p99:.3f}" for t in times))
    last = report.backends[-1]
    clock = "" if report.clock == "wall" else ", CPU time"
    for name in report.backends[:-1]:
        table.add_row(f"{name} : {last}{clock}", *(format_ratio(report.ratio(batch, name, last)) for batch in batches))
    if report.cpu and report.threads == 1:
        for name in report.backends:
            table.add_row(f"{name}, CPU time", *(f"{report.cpu_time(batch, name):.3f}" for batch in batches))
    return table


def _make_cold_table(report: "LatencyReport") -> "Table":
    """Return a table of latencies after other memory was read, as in a server that does other work between requests."""
    import numpy as np

    from recprune_export.validation.latency.latency_constants import COLD_BYTES

    batches, last = list(report.cold), report.backends[-1]
    title = f"Latency in ms, p50, cold caches: after reading {format_bytes(COLD_BYTES)} of other memory"
    table = make_table(title, "", *(f"batch {batch}" for batch in batches))
    names = [name for name in report.backends if name.endswith("ONNX")]
    for name in names:
        table.add_row(name, *(f"{np.median(report.cold[batch][name]):.3f}" for batch in batches))
    # wall-clock times of a busy machine do not support a ratio
    for name in names[:-1] if report.clock == "wall" else ():
        table.add_row(f"{name} : {last}", *(format_ratio(report.cold_ratio(batch, name, last)) for batch in batches))
    return table


def open_loop_table(report: "OpenLoopReport") -> "Table":
    batches = list(report.times)
    table = make_table(
        f"Latency from arrival in ms, p50 / p95 / p99, {report.qps:g} requests per second, {format_threads(report.threads)}",
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
    table = make_table(
        f"In a fresh process, batch {report.batch}", "", "load", "first request", "memory", "peak while loading"
    )
    for name in report.runs:
        typical = report.typical(name)
        times = (f"{time:.3f} ms" for time in (typical.load, typical.first_request))
        table.add_row(name, *times, format_bytes(typical.memory), format_bytes(typical.peak))
    return table


def format_threads(count: int) -> str:
    return f"{count} thread" + ("s" if count > 1 else "")
