"""Section on size: parameters, operations and bytes, counted in the ONNX files."""

from collections.abc import Mapping
from typing import Any

from recprune_export.bundle.key_figures import read_counts, read_reduction
from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.bundle.storage_summary import read_storage
from recprune_export.onnx.counts import WeightCount
from recprune_export.report.numbers import MINUS, format_bytes, format_count, format_percent, format_ratio
from recprune_export.report.page import Headline, PageTable, Section

ZEROS = (
    "Removed parameters are no longer in the file. Zero parameters are in the file; they do not make it faster, and smaller "
    "only in a packed bundle."
)


def size_section(manifest: Manifest) -> Section | None:
    """Return the counts of both files side by side; None if they were not counted."""
    counts, change = read_counts(manifest), read_reduction(manifest)
    if counts is None or change is None:
        return None
    dense, pruned = counts
    rows = [
        _describe_weights("Embedding tables", dense.tables, pruned.tables, change.removed.tables, change.zeroed.tables),
        _describe_weights("Everything else", dense.rest, pruned.rest, change.removed.rest, change.zeroed.rest),
    ]
    complete = dense.operations_complete and pruned.operations_complete
    operations = (dense.format_operations(), pruned.format_operations())
    sizes = (format_bytes(dense.bytes), format_bytes(pruned.bytes))
    rows += [
        ("Multiply-adds per row", *operations, format_percent(change.operations) if complete else "", "", ""),
        ("File size", *sizes, format_percent(change.bytes), "", ""),
        ("Nodes of the graph", *_counts(dense.nodes, pruned.nodes), "", "", ""),
    ]
    headings = ("", "dense", "pruned", "removed", "zero", "removed or zero")
    return Section(
        "size",
        "Size",
        (ZEROS, *(_describe_sparsity(manifest.settings) if read_storage(manifest) is None else ())),
        tables=(PageTable("Counted in the two ONNX files", headings, tuple(rows)),),
    )


def size_headline(manifest: Manifest) -> Headline | None:
    """Return the ratio of the file sizes; None if they were not counted."""
    counts, change = read_counts(manifest), read_reduction(manifest)
    if counts is None or change is None:
        return None
    dense, pruned = counts
    ratio = dense.bytes / pruned.bytes
    return Headline(
        "smaller" if ratio >= 1 else "larger",
        format_ratio(max(ratio, 1 / ratio)),
        (
            f"The ONNX file has {format_bytes(pruned.bytes)} instead of {format_bytes(dense.bytes)}.",
            f"{format_percent(change.removed.parameters)} of the parameters are removed, "
            f"{format_percent(change.zeroed.parameters)} are zero.",
            "Counted in the files, so there is no interval.",
        ),
    )


def _describe_weights(
    label: str, dense: WeightCount, pruned: WeightCount, removed: float, zeroed: float
) -> tuple[str, ...]:
    fractions = map(format_percent, (removed, zeroed, removed + zeroed))
    return (f"{label}, parameters", *_counts(dense.parameters, pruned.parameters), *fractions)


def _counts(*counts: int) -> tuple[str, ...]:
    return tuple(map(format_count, counts))


def _describe_sparsity(settings: Mapping[str, Any]) -> tuple[str, ...]:
    if "sparsity" not in settings:
        return ()
    text = f"{settings['sparsity']:g}"
    for key, group in (("embedding_sparsity", "tables"), ("hidden_sparsity", "everything else")):
        if settings.get(key) is not None:
            text += f", {settings[key]:g} for the {group}"
    return (f"The requested sparsity was {text.replace('-', MINUS)}; it counts removed and zero parameters.",)
