"""What `refresh` says."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recprune_export.console.tables import figure, open_console, print_json, print_notes, table_of
from recprune_export.data.distribution.stability_index import MAJOR, NOTICEABLE

if TYPE_CHECKING:
    from rich.table import Table

    from recprune_export.data.distribution.data_profile import Drift
    from recprune_export.pipeline.compress import Result
    from recprune_export.refresh.drift_report import Examination
    from recprune_export.refresh.plan_regret import Standing

_THEN_AND_NOW = ("dense, recorded", "dense, now", "artifact, recorded", "artifact, now")

_DRIFTS_SHOWN = 12


def print_examination(found: "Examination") -> None:
    """Say whether a bundle holds on new rows, and by what."""
    console, quality = open_console(), found.quality
    print_notes(found.notes)
    table = table_of(f"Quality on {quality.rows:,} new rows, {found.rows.which}", "", *_THEN_AND_NOW)
    for name in quality.now["pruned"]:
        models = ((when, model) for model in ("dense", "pruned") for when in (quality.then, quality.now))
        table.add_row(name, *(figure(when.get(model, {}).get(name), ".4f") for when, model in models))
    console.print(table)
    if found.drifts:
        console.print(_drifts(found.drifts))
    if found.standings:
        console.print(_standings(found.standings))
    verdicts = table_of("Does the plan hold?", "measure", "verdict", "")
    verdicts.columns[2].justify = "left"
    for finding in found.findings:
        style = "red" if finding.holds is False else "dim" if finding.holds is None else None
        verdicts.add_row(finding.measure, finding.verdict, finding.reason, style=style)
    console.print(verdicts)
    console.print(f"Verdict: {found.verdict}", highlight=False, soft_wrap=True)


def print_refresh_json(found: "Examination", result: "Result | None") -> None:
    """Print what was found and, where the model was compressed again, the new bundle and its manifest."""
    new = {} if result is None else {"refreshed": str(result.target), "manifest": result.manifest.to_dict()}
    print_json({**found.to_dict(), **new})


def _drifts(drifts: Sequence["Drift"]) -> "Table":
    table = table_of(
        f"Drift: population stability index (below {NOTICEABLE:g} none, from {MAJOR:g} on major)",
        "field", "index", "by chance below", "unknown or mean, then", "now",
    )  # fmt: skip
    for drift in drifts[:_DRIFTS_SHOWN]:
        form = ".1%" if drift.kind == "ids" else ".3g"
        cells = (figure(value, form) for value in (drift.before, drift.now))
        table.add_row(
            drift.name, f"{drift.psi:.3f}", f"{drift.chance:.3f}", *cells, style="red" if drift.major else None
        )
    if len(drifts) > _DRIFTS_SHOWN:
        table.add_row(f"{len(drifts) - _DRIFTS_SHOWN} more, with less", "", "", "", "")
    return table


def _standings(standings: Sequence["Standing"]) -> "Table":
    table = table_of(
        "Ranking on the new rows: what the score says is lost",
        "group", "kind", "kept", "kept again", "by the plan", "by the best choice", "without the group",
    )  # fmt: skip
    for s in standings:
        again = "rotated" if s.same is None else f"{s.same} of {s.kept}"
        table.add_row(
            s.group, s.kind, f"{s.kept} of {s.width}", again, f"{s.lost:.2g}", f"{s.least:.2g}", f"{s.total:.2g}"
        )
    return table
