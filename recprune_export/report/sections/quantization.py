"""In how many bits weights are stored, what that costs, and what it gives."""

from collections.abc import Mapping
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.numbers import format_bytes, format_interval, format_ratio, format_signed
from recprune_export.report.page import PageTable, Section, name_markup

LISTED = 60


def quantization_section(manifest: Manifest) -> Section | None:
    """Return the loss that the gate saw, the speed beside fp32, and each weight's form; nothing where all are as trained."""
    found = manifest.quantisation
    if not found:
        return None
    tables = []
    if found.get("speedups"):
        rows = tuple(
            (f"batch {batch}", f"{format_ratio(ratio['estimate'])} ({format_interval((ratio['low'], ratio['high']))})")
            for batch, ratio in found["speedups"].items()
        )
        tables.append(PageTable("Times faster than the same file in fp32, with 95 % intervals", ("", "faster"), rows))
    weights = [*found.get("tables", ()), *found.get("layers", ())]
    if weights:
        title = "How each weight is stored"
        if len(weights) > LISTED:
            title += f", the first {LISTED} of {len(weights):,}; all are in manifest.json"
        cells = tuple(_row(weight) for weight in weights[:LISTED])
        tables.append(PageTable(title, ("weight", "shape", "form", "bytes", "why"), cells, frozenset({0, 1, 2, 4})))
    return Section("quantisation", "Fewer bits", _said(found), tables=tuple(tables))


def _row(weight: Mapping[str, Any]) -> tuple[Any, ...]:
    before, after = weight["bytes"]
    shape = " × ".join(f"{count:,}" for count in weight["shape"])
    stored = format_bytes(after) if before == after else f"{format_bytes(before)} → {format_bytes(after)}"
    return name_markup(weight["name"]), shape, weight["form"], stored, weight["reason"]


def _said(found: Mapping[str, Any]) -> tuple[str, ...]:
    said = []
    if "bytes" in found:
        said.append(
            f"The model has {format_bytes(found['bytes']['after'])} instead of {format_bytes(found['bytes']['before'])} in fp32."
        )
    if "loss" in found:
        loss = found["loss"]
        given = (
            "" if loss["interval"] is None else f", with a 95 % interval of {format_interval(loss['interval'], '+.5f')}"
        )
        said.append(
            f"The gate: {loss['metric']} lost {format_signed(loss['lost'], '+.5f')}{given}; {loss['limit']:g} was allowed. "
            + ("It held." if loss["passed"] else "It did not hold, whatever was taken back.")
        )
    if found.get("taken_back"):
        said.append(f"Taken back for quality: {len(found['taken_back'])} weights.")
    return tuple(said)
