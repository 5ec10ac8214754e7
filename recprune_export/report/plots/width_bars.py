"""Plot of widths before and after pruning: a track of the old width, filled up to the new width."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from recprune_export.report.plots.row_labels import LEFT, RIGHT, ROW, draw_row_label, draw_row_value
from recprune_export.report.svg import Drawing


@dataclass(frozen=True)
class GroupWidth:
    """Channels of one group before and after."""

    group: str
    before: int
    after: int


def draw_widths(name: str, title: str, widths: Sequence[GroupWidth]) -> Markup:
    """Draw a bar for each group, all on the same scale."""
    description = "; ".join(f"{w.group}: {w.before} before, {w.after} after" for w in widths)
    drawing = Drawing(name, title, description, ROW * len(widths) + 2)
    unit = (RIGHT - LEFT) / max(w.before for w in widths)
    for number, width in enumerate(widths):
        middle = ROW * (number + 0.5)
        draw_row_label(drawing, middle, width.group)
        draw_row_value(drawing, middle, f"{width.before} → {width.after}")
        drawing.bar(LEFT, middle - 5, unit * width.before, 10, "track")
        drawing.bar(LEFT, middle - 5, unit * width.after, 10, "strong")
    return drawing.markup()
