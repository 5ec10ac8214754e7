"""Plot of widths before and after pruning: a track of the old width, filled up to the new width."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from recprune_export.report.svg import WIDTH, Drawing, shorten

LEFT, RIGHT, ROW = 2.0, WIDTH - 2.0, 36.0


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
        top = ROW * number
        drawing.text(LEFT, top + 14, shorten(width.group, most=40), "label")
        drawing.text(RIGHT, top + 14, f"{width.before} → {width.after}", "value", "end")
        drawing.bar(LEFT, top + 20, unit * width.before, 10, "track")
        drawing.bar(LEFT, top + 20, unit * width.after, 10, "strong")
    return drawing.markup()
