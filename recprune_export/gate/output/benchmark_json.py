"""The figures of a check for `benchmark-action/github-action-benchmark`, as its tool `customSmallerIsBetter` reads them."""

import json
from math import isfinite
from pathlib import Path
from typing import Any

from recprune_export.errors import UsageError
from recprune_export.gate._check import Check
from recprune_export.gate.findings import Finding
from recprune_export.gate.output.finding_rows import format_amount, format_change
from recprune_export.metrics.metric_catalogue import find_metric
from recprune_export.output_files import make_sibling_path
from recprune_export.terminal_text import escape_line

_QUALITY = "quality, "


def render_benchmark(check: Check) -> list[dict[str, Any]]:
    """Return an entry for each gate that measured NEW, if less is better: not for metrics such as AUC.

    `range` is half the width of the interval, if one was measured.
    """
    return [
        _render_entry(finding)
        for finding in check.findings
        if finding.new is not None and isfinite(finding.new) and _is_smaller_better(finding.gate)
    ]


def write_benchmark(check: Check, path: Path) -> None:
    """Write all entries to `path` atomically. Raises `UsageError` if it cannot be written."""
    partial = make_sibling_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(render_benchmark(check), indent=1) + "\n", encoding="ascii")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"--benchmark-json cannot be written to {path}: {error.strerror}.") from error


def _render_entry(finding: Finding) -> dict[str, Any]:
    assert finding.new is not None
    entry = {"name": _plain_name(finding.gate), "unit": finding.unit or "count", "value": finding.new}
    if finding.ratio is not None and finding.base is not None:
        half = (finding.ratio.high - finding.ratio.low) / 2 * finding.base
        if isfinite(half):
            entry["range"] = f"± {half:.3g}"
    facts = (f"BASE {format_amount(finding.base, finding.unit)}", format_change(finding), finding.verdict.text)
    return {**entry, "extra": escape_line("; ".join(fact for fact in facts if fact.strip()))}


def _is_smaller_better(gate: str) -> bool:
    if not gate.startswith(_QUALITY):
        return True
    metric = find_metric(gate.removeprefix(_QUALITY))
    return metric is not None and not metric.greater_is_better


def _plain_name(gate: str) -> str:
    """Return the name of a gate without characters that end a code span or a cell: the action writes it into a table unescaped."""
    return escape_line(gate).replace("`", "'").replace("|", "/")
