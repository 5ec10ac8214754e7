"""What `inspect` says of a bundle or an ONNX file."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recprune_export.console.tables import make_console, make_table, print_json

if TYPE_CHECKING:
    from rich.table import Table

    from recprune_export.bundle.artifact_summary import ArtifactInspection


def print_artifact(inspection: "ArtifactInspection", *, as_json: bool) -> None:
    """Show what a bundle or an ONNX file holds, and what a request costs."""
    if as_json:
        return print_json(inspection.to_dict())
    console, counts, machine = make_console(), inspection.counts, inspection.machine
    console.print(
        f"{inspection.name}: {counts.tables.parameters:,} parameters in tables, {counts.rest.parameters:,} in the rest, "
        f"{counts.total.nonzero:,} of them not zero; {counts.nodes} nodes, {counts.bytes:,} bytes",
        highlight=False,
    )
    table = make_table(
        "Cost of a request",
        "batch",
        "multiply-adds",
        "read: weights and rows",
        "request and answer",
        "floor",
        "measured",
    )
    for batch, cost in inspection.costs.items():
        multiple = inspection.multiples.get(batch)
        table.add_row(
            str(batch),
            f"{cost.operations:,}",
            f"{cost.weights:,} B",
            f"{cost.interface:,} B",
            f"{cost.floor * 1e3:.3f} ms",
            "" if multiple is None else f"{multiple:.1f} × floor",
        )
    console.print(table)
    reads = " / ".join(f"{rate / 1e9:.0f}" for rate in machine.reads)
    threads = f"{machine.threads} thread" + ("s" if machine.threads > 1 else "")
    console.print(
        f"This machine, {threads}: {machine.fp32 / 1e9:.0f} billion multiply-adds a second in fp32, "
        f"{machine.int8 / 1e9:.0f} in int8; reads {reads} GB/s from cache, further cache and memory; "
        f"{machine.node * 1e6:.2f} µs a node, {machine.call * 1e6:.1f} µs a call",
        highlight=False,
    )
    if inspection.rewrites:
        console.print(rewrite_table(inspection.rewrites))


def rewrite_table(rewrites: Sequence[Mapping[str, Any]]) -> "Table":
    batches = list(rewrites[0]["before"]) if rewrites else []
    table = make_table("Rewrites of the graph, estimated change", "", "places", *(f"batch {b}" for b in batches), "")
    for each in rewrites:
        changes = [f"{each['after'][b] / each['before'][b] - 1:+.1%}" for b in batches]
        table.add_row(each["name"], str(each["places"]), *changes, "kept" if each["kept"] else each["reason"])
    return table
