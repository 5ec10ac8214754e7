"""What `refresh` says."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recprune_export.console.tables import format_figure, make_console, make_table, print_json, print_notes
from recprune_export.data.distribution.stability_index import MAJOR, NOTICEABLE

if TYPE_CHECKING:
    from rich.table import Table

    from recprune_export.data.distribution.data_profile import Drift
    from recprune_export.pipeline.compress import CompressionResult
    from recprune_export.refresh.drift_report import DriftReport
    from recprune_export.refresh.plan_regret import GroupRegret

_THEN_AND_NOW = ("dense, recorded", "dense, now", "artifact, recorded", "artifact, now")

_DRIFTS_SHOWN = 12


def print_drift_report(report: "DriftReport") -> None:
    """Say whether a bundle holds on new rows, and by what."""
    console, quality = make_console(), report.quality
    print_notes(report.notes)
    table = make_table(f"Quality on {quality.rows:,} new rows, {report.rows.description}", "", *_THEN_AND_NOW)
    for name in quality.now["pruned"]:
        models = ((when, model) for model in ("dense", "pruned") for when in (quality.then, quality.now))
        table.add_row(name, *(format_figure(when.get(model, {}).get(name), ".4f") for when, model in models))
    console.print(table)
    if report.drifts:
        console.print(_drifts(report.drifts))
    if report.regrets:
        console.print(_standings(report.regrets))
    verdicts = make_table("Does the plan hold?", "measure", "verdict", "")
    verdicts.columns[2].justify = "left"
    for finding in report.findings:
        style = "red" if finding.holds is False else "dim" if finding.holds is None else None
        verdicts.add_row(finding.measure, finding.verdict, finding.reason, style=style)
    console.print(verdicts)
    console.print(f"Verdict: {report.verdict}", highlight=False, soft_wrap=True)


def print_refresh_json(report: "DriftReport", result: "CompressionResult | None") -> None:
    """Print what was found and, where the model was compressed again, the new bundle and its manifest."""
    new = {} if result is None else {"refreshed": str(result.target), "manifest": result.manifest.to_dict()}
    print_json({**report.to_dict(), **new})


def _drifts(drifts: Sequence["Drift"]) -> "Table":
    table = make_table(
        f"Drift: population stability index (below {NOTICEABLE:g} none, from {MAJOR:g} on major)",
        "field", "index", "by chance below", "unknown or mean, then", "now",
    )  # fmt: skip
    for drift in drifts[:_DRIFTS_SHOWN]:
        form = ".1%" if drift.kind == "ids" else ".3g"
        cells = (format_figure(value, form) for value in (drift.before, drift.now))
        table.add_row(
            drift.name, f"{drift.psi:.3f}", f"{drift.chance:.3f}", *cells, style="red" if drift.major else None
        )
    if len(drifts) > _DRIFTS_SHOWN:
        table.add_row(f"{len(drifts) - _DRIFTS_SHOWN} more, with less", "", "", "", "")
    return table


def _standings(standings: Sequence["GroupRegret"]) -> "Table":
    table = make_table(
        "Ranking on the new rows: what the score says is lost",
        "group", "kind", "kept", "kept again", "by the plan", "by the best choice", "without the group",
    )  # fmt: skip
    for s in standings:
        again = "rotated" if s.overlap is None else f"{s.overlap} of {s.pruned_width}"
        table.add_row(
            s.group,
            s.kind,
            f"{s.pruned_width} of {s.width}",
            again,
            f"{s.loss:.2g}",
            f"{s.optimal_loss:.2g}",
            f"{s.total:.2g}",
        )
    return table
