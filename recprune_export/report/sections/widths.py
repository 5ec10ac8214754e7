"""Section on layer widths before and after pruning, by kind of group."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from recprune_export.bundle.manifest.manifest import Manifest
from recprune_export.report.numbers import format_percent
from recprune_export.report.page import PageFigure, PageTable, Section, name_markup
from recprune_export.report.plots.width_bars import GroupWidth, draw_widths

MAX_BARS = 24  # groups of one kind in a plot; the table has more
MAX_ROWS = 200
KINDS = {"embedding": "Embedding dimensions", "hidden": "Hidden units"}
EXPLANATION = (
    "A group is a set of tensor axes that must have the same width: the dimensions of a table, the units of a layer, and all tensors "
    "that are added to them or read them. The light bar is the width before pruning, the dark bar the width after."
)


def widths_section(manifest: Manifest) -> Section | None:
    """Return a plot and a table for each kind of group, and for each stage if stages have different groups."""
    figures = tuple(
        _figure(f"widths-{number}-{kind}", f"{KINDS.get(kind, kind)}{after}", widths)
        for number, (after, widths_by_kind) in enumerate(_stages(manifest.plan))
        for kind, widths in widths_by_kind.items()
    )
    removed = manifest.plan.get("fields", {}).get("removed", ())
    if not figures and not removed:
        return None
    score = manifest.plan.get("score")
    paragraphs = [EXPLANATION] if figures else []
    if score:
        paragraphs.append(f"Channels were chosen by the score '{score}'.")
    tables = (_removed(manifest.plan["fields"]),) if removed else ()
    return Section("widths", "Widths", tuple(paragraphs), figures, tables)


def list_widths(plan: Mapping[str, Any]) -> dict[str, list[GroupWidth]]:
    """Return the widths before the first stage and after the last one, by kind; the stage is named if stages differ in groups."""
    widths: dict[str, list[GroupWidth]] = {}
    for suffix, by_kind in _stages(plan):
        for kind, of_kind in by_kind.items():
            widths.setdefault(kind, []).extend(replace(width, group=width.group + suffix) for width in of_kind)
    return widths


def _stages(plan: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, list[GroupWidth]]]]:
    """Yield title suffix and widths by kind: once if all stages have the same groups, otherwise once for each stage."""
    stages: list[Mapping[str, Any]] = []
    stage: Mapping[str, Any] | None = plan
    while stage:
        stages.append(stage)
        stage = stage.get("then")
    names = [{group["group"] for group in stage.get("groups", ())} for stage in stages]
    if all(stage_names == names[0] for stage_names in names[1:]):
        if names and names[0]:
            last = {group["group"]: group["kept"] for group in stages[-1]["groups"]}
            yield "", _by_kind({**group, "kept": last[group["group"]]} for group in stages[0]["groups"])
        return
    for number, stage in enumerate(stages, start=1):
        yield f", stage {number}", _by_kind(stage.get("groups", ()))


def _by_kind(groups: Any) -> dict[str, list[GroupWidth]]:
    widths: dict[str, list[GroupWidth]] = {}
    for group in groups:
        widths.setdefault(group["kind"], []).append(
            GroupWidth(group.get("label", group["group"]), group["width"], group["kept"])
        )
    return widths


def _figure(name: str, title: str, widths: list[GroupWidth]) -> PageFigure:
    more = len(widths) - MAX_BARS
    caption = f"{title}: {sum(w.before for w in widths):,} before, {sum(w.after for w in widths):,} after"
    if more > 0:
        caption += f". The first {MAX_BARS} of {len(widths):,} groups"
    rows = tuple(
        (name_markup(w.group), str(w.before), str(w.after), format_percent(w.after / w.before))
        for w in widths[:MAX_ROWS]
    )
    listed = "" if len(widths) <= MAX_ROWS else f", the first {MAX_ROWS} of {len(widths):,}; all are in plan.json"
    table = PageTable(f"{title}{listed}", ("group", "before", "after", "left"), rows)
    return PageFigure(draw_widths(name, title, widths[:MAX_BARS]), caption, table)


def _removed(fields: Mapping[str, Any]) -> PageTable:
    importance = fields.get("importance", {})
    rows = tuple(
        (name_markup(name), f"{importance[name]:+.2e}" if name in importance else "not measured")
        for name in fields["removed"]
    )
    return PageTable(
        "Removed fields; their inputs remain and are ignored", ("field", "increase of the loss without it"), rows
    )
