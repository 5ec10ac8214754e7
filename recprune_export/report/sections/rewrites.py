"""Section on the rewrites of the ONNX graph: those that were tried, those that were kept, and their effect."""

from collections.abc import Mapping, Sequence
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.numbers import format_count, format_milliseconds, format_percent, format_signed
from recprune_export.report.page import Cell, PageTable, Section, code_markup

MAX_ROWS = 40
EXPLANATION = (
    "A rewrite changes the graph and not its answers. Each was tried on a copy, which was kept where the answers stayed the same and "
    "the cost model estimates no more time. The times are estimates of all nodes together, not measurements."
)


def rewrites_section(manifest: Manifest) -> Section | None:
    """Return all rewrites with the estimated change of time, and the total effect of the kept ones; None without any."""
    rewrites = manifest.rewrites
    if not rewrites:
        return None
    kept = sum(rewrite["kept"] for rewrite in rewrites)
    batches = tuple(rewrites[0]["before"])
    headings = ("rewrite", "places", *(f"batch {batch}" for batch in batches), "outcome")
    listed = f"; the first {MAX_ROWS} of {len(rewrites):,}" if len(rewrites) > MAX_ROWS else ""
    table = PageTable(
        f"Rewrites in the order in which they were tried, with the estimated change of time by batch size{listed}",
        headings,
        tuple(_row(rewrite, batches) for rewrite in rewrites[:MAX_ROWS]),
        frozenset({0, len(headings) - 1}),
    )
    paragraphs = (EXPLANATION, *(() if kept == 0 else (_describe_total(rewrites, batches),)))
    gist = f"{kept} of {len(rewrites)} kept"
    return Section("rewrites", "Rewrites of the graph", paragraphs, tables=(table,), gist=gist, is_open=False)


def _row(rewrite: Mapping[str, Any], batches: Sequence[str]) -> tuple[Cell, ...]:
    changes = (_format_change(rewrite["before"][batch], rewrite["after"][batch]) for batch in batches)
    outcome = "kept" if rewrite["kept"] else f"dropped: {rewrite['reason']}"
    return code_markup(rewrite["name"]), format_count(rewrite["places"]), *changes, outcome


def _describe_total(rewrites: Sequence[Mapping[str, Any]], batches: Sequence[str]) -> str:
    """Return the estimated times before the first rewrite and after the last kept one."""
    last = [rewrite for rewrite in rewrites if rewrite["kept"]][-1]
    gains = []
    for batch in batches:
        before, after = rewrites[0]["before"][batch], last["after"][batch]
        gains.append(
            f"{format_milliseconds(before)} to {format_milliseconds(after)} ms at batch {batch} "
            f"({_format_change(before, after)})"
        )
    return f"All kept rewrites together: {', '.join(gains)}."


def _format_change(before: float, after: float) -> str:
    if not before:
        return "0"
    change = after / before - 1.0
    sign = "+" if format_signed(100.0 * change, "+.1f").startswith("+") else ""
    return sign + format_percent(change)
