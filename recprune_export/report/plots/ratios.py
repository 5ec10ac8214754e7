"""Plot of ratios with their intervals and limits, one row each, on the same axis."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from recprune_export.report.numbers import format_percent, format_signed
from recprune_export.report.plots.row_labels import LEFT, RIGHT, ROW, draw_row_label, draw_row_value
from recprune_export.report.scales import AxisScale, linear_scale
from recprune_export.report.svg import WIDTH, Drawing

AXIS = 40.0
MAX_GROWTH = 1.0  # larger growth, or shrinkage, is drawn at the edge


@dataclass(frozen=True)
class PlottedRatio:
    """Relative growth of a value, with interval and limit if there are any; `verdict`: a class of the style sheet."""

    name: str
    growth: float
    verdict: str
    low: float | None = None
    high: float | None = None
    most: float | None = None


def draw_ratios(name: str, title: str, ratios: Sequence[PlottedRatio], across: str) -> Markup:
    """Draw a dot for each growth, a line for its interval and a mark at its limit."""
    description = "; ".join(f"{r.name}: {format_signed(100 * r.growth, '+.1f')} %, {r.verdict}" for r in ratios)
    height = ROW * len(ratios) + AXIS
    drawing = Drawing(name, title, description, height)
    values = [v for r in ratios for v in (r.growth, r.low, r.high, r.most) if v is not None]
    scale = linear_scale([0.0, *(max(-MAX_GROWTH, min(MAX_GROWTH, v)) for v in values)], LEFT, RIGHT)
    _axis(drawing, scale, height - AXIS, across)
    for number, ratio in enumerate(ratios):
        _row(drawing, scale, ROW * number, ratio)
    return drawing.markup()


def _row(drawing: Drawing, scale: AxisScale, top: float, ratio: PlottedRatio) -> None:
    middle = top + ROW / 2
    draw_row_label(drawing, middle, ratio.name)
    draw_row_value(drawing, middle, f"{format_signed(100 * ratio.growth, '+.1f')} %")
    if ratio.most is not None:
        drawing.bar(scale(ratio.most) - 1, middle - 7, 2, 14, "limit")
    if ratio.low is not None and ratio.high is not None:
        drawing.line(scale(ratio.low), middle, scale(ratio.high), middle, f"error {ratio.verdict}-line")
    drawing.dot(scale(ratio.growth), middle, 4.5, ratio.verdict)


def _axis(drawing: Drawing, scale: AxisScale, y: float, across: str) -> None:
    for mark in scale.marks(most=4):
        drawing.line(scale(mark), 4, scale(mark), y + 4, "zero" if mark == 0 else "grid")
        drawing.mark(scale(mark), y + 19, format_percent(mark).replace(".0", "") if mark else "0")
    drawing.line(LEFT, y + 4, RIGHT, y + 4, "axis")
    drawing.text(WIDTH, y + 35, across, "mark", "end")
