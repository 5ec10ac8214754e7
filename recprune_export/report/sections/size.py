"""Section on size: parameters, operations and bytes, counted in the ONNX files."""

from collections.abc import Mapping
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.numbers import MINUS, format_bytes, format_count, format_percent, format_ratio
from recprune_export.report.page import Headline, PageTable, Section

GROUPS = (("tables", "Embedding tables"), ("rest", "Everything else"))


def size_section(manifest: Manifest) -> Section | None:
    """Return the counts of both files side by side; None if they were not counted."""
    dense, pruned = manifest.counts["dense"], manifest.counts["pruned"]
    if not (dense and pruned):
        return None
    rows = [
        (
            f"{label}, parameters",
            format_count(dense[group]["parameters"]),
            format_count(pruned[group]["parameters"]),
            _change(dense[group]["parameters"], pruned[group]["parameters"]),
        )
        for group, label in GROUPS
    ]
    before, after = (sum(counts[group]["nonzero"] for group, _ in GROUPS) for counts in (dense, pruned))
    rows.append(("Parameters that are not zero", format_count(before), format_count(after), _change(before, after)))
    for key, label in (("operations", "Multiply-adds for one row"), ("nodes", "Nodes of the graph")):
        rows.append((label, format_count(dense[key]), format_count(pruned[key]), _change(dense[key], pruned[key])))
    rows.append(
        (
            "File size",
            format_bytes(dense["bytes"]),
            format_bytes(pruned["bytes"]),
            _change(dense["bytes"], pruned["bytes"]),
        )
    )
    headings = ("", "dense", "pruned", "change")
    return Section(
        "size",
        "Size",
        (f"The sparsity asked for was {_describe_sparsity(manifest.settings)}.",)
        if "sparsity" in manifest.settings
        else (),
        tables=(PageTable("Counted in the two ONNX files", headings, tuple(rows)),),
    )


def size_headline(manifest: Manifest) -> Headline | None:
    """Return the ratio of the file sizes; None if they were not counted."""
    dense, pruned = manifest.counts["dense"], manifest.counts["pruned"]
    if not (dense and pruned):
        return None
    before, after = (sum(counts[group]["nonzero"] for group, _ in GROUPS) for counts in (dense, pruned))
    ratio = dense["bytes"] / pruned["bytes"]
    return Headline(
        "smaller" if ratio >= 1 else "as small",
        format_ratio(ratio),
        (
            f"The ONNX file has {format_bytes(pruned['bytes'])} instead of {format_bytes(dense['bytes'])}.",
            f"Of the parameters that are not zero {format_count(after)} of {format_count(before)} stay ({_change(before, after)}).",
            "Counted in the files, so there is no interval.",
        ),
    )


def _change(before: float, after: float) -> str:
    if not before:
        return ""
    share = after / before - 1.0
    return format_percent(share) if share < 0 else f"+{format_percent(share)}" if share else "0 %"


def _describe_sparsity(settings: Mapping[str, Any]) -> str:
    text = f"{settings['sparsity']:g}"
    for key, group in (("embedding_sparsity", "tables"), ("hidden_sparsity", "everything else")):
        if settings.get(key) is not None:
            text += f", {settings[key]:g} for the {group}"
    return text.replace("-", MINUS)
