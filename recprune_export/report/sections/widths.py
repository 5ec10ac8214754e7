"""Per-layer widths before and after, by kind of group."""

from collections.abc import Iterator, Mapping
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.numbers import format_percent
from recprune_export.report.page import PageFigure, PageTable, Section, name_markup
from recprune_export.report.plots.width_bars import GroupWidth, draw_widths

DRAWN = 24  # groups of one kind; the table has more
LISTED = 200
KINDS = {"embedding": "Embedding dimensions", "hidden": "Hidden units"}
SAID = (
    "A group is what has to keep the same width: a table's dimensions, a layer's units, and all that is added to them or reads "
    "them. The pale track is the width before, the filled part what is left."
)


def widths_section(manifest: Manifest) -> Section | None:
    """Return for each kind of group, and each stage where groups changed their names between them, a picture and a table."""
    figures = tuple(
        _figure(f"widths-{number}-{kind}", f"{KINDS.get(kind, kind)}{after}", widths)
        for number, (after, of) in enumerate(_stages(manifest.plan))
        for kind, widths in of.items()
    )
    removed = manifest.plan.get("fields", {}).get("removed", ())
    if not figures and not removed:
        return None
    score = manifest.plan.get("score")
    said = [SAID] if figures else []
    if score:
        said.append(f"Channels were chosen by the score '{score}'.")
    tables = (_removed(manifest.plan["fields"]),) if removed else ()
    return Section("widths", "Widths", tuple(said), figures, tables)


def _stages(plan: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, list[GroupWidth]]]]:
    """Yield what was done, as one step where the groups of all stages have the same names, else stage by stage."""
    stages: list[Mapping[str, Any]] = []
    stage: Mapping[str, Any] | None = plan
    while stage:
        stages.append(stage)
        stage = stage.get("then")
    names = [{group["group"] for group in stage.get("groups", ())} for stage in stages]
    if all(of == names[0] for of in names[1:]):
        if names and names[0]:
            last = {group["group"]: group["kept"] for group in stages[-1]["groups"]}
            yield "", _by_kind({**group, "kept": last[group["group"]]} for group in stages[0]["groups"])
        return
    for number, stage in enumerate(stages, start=1):
        yield f", stage {number}", _by_kind(stage.get("groups", ()))


def _by_kind(groups: Any) -> dict[str, list[GroupWidth]]:
    found: dict[str, list[GroupWidth]] = {}
    for group in groups:
        found.setdefault(group["kind"], []).append(GroupWidth(group["group"], group["width"], group["kept"]))
    return found


def _figure(name: str, title: str, widths: list[GroupWidth]) -> PageFigure:
    more = len(widths) - DRAWN
    caption = f"{title}: {sum(w.before for w in widths):,} before, {sum(w.after for w in widths):,} after"
    if more > 0:
        caption += f". The first {DRAWN} of {len(widths):,} groups"
    rows = tuple(
        (name_markup(w.group), str(w.before), str(w.after), format_percent(w.after / w.before)) for w in widths[:LISTED]
    )
    listed = "" if len(widths) <= LISTED else f", the first {LISTED} of {len(widths):,}; all are in plan.json"
    table = PageTable(f"{title}{listed}", ("group", "before", "after", "left"), rows)
    return PageFigure(draw_widths(name, title, widths[:DRAWN]), caption, table)


def _removed(fields: Mapping[str, Any]) -> PageTable:
    importance = fields.get("importance", {})
    rows = tuple(
        (name_markup(name), f"{importance[name]:+.2e}" if name in importance else "not measured")
        for name in fields["removed"]
    )
    return PageTable(
        "Fields that were removed; their inputs stay and are ignored", ("field", "rise of the loss without it"), rows
    )
