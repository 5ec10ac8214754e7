"""Plot of one figure over checks: NEW as dots in the color of the verdict, BASE as a dashed line."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from recprune_export.report.numbers import format_significant
from recprune_export.report.scales import linear_scale
from recprune_export.report.svg import WIDTH, Drawing, shorten

LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 62.0, WIDTH - 14.0, 34.0, 156.0, 196.0


@dataclass(frozen=True)
class TrendPoint:
    """The values of one check. `label`: its commit; `verdict`: a class of the style sheet."""

    label: str
    base: float
    new: float
    verdict: str


def draw_trend(name: str, title: str, points: Sequence[TrendPoint], unit: str) -> Markup:
    """Draw the checks from left to right at equal distances; the first and the last are labeled with their commits."""
    description = "; ".join(f"{p.label}: {format_significant(p.new)} {unit}, {p.verdict}".strip() for p in points)
    drawing = Drawing(name, title, description, HEIGHT)
    y = linear_scale([value for p in points for value in (p.base, p.new)], BOTTOM, TOP)
    step = (RIGHT - LEFT - 12.0) / max(len(points) - 1, 1)
    places = [LEFT + 6.0 + step * number for number in range(len(points))]
    for mark in y.marks():
        drawing.line(LEFT, y(mark), RIGHT, y(mark), "grid")
        drawing.text(LEFT - 6, y(mark) + 4, f"{mark:,g}", "mark", "end")
    drawing.line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis")
    drawing.path([(x, y(p.base)) for x, p in zip(places, points, strict=True)], "trend-base")
    drawing.path([(x, y(p.new)) for x, p in zip(places, points, strict=True)], "front")
    for x, point in zip(places, points, strict=True):
        drawing.dot(x, y(point.new), 4.5, point.verdict)
    drawing.text(2, 14, unit or "number", "mark")
    drawing.text(LEFT, BOTTOM + 18, shorten(points[0].label, 20), "mark")
    if len(points) > 1:
        drawing.text(RIGHT, BOTTOM + 18, shorten(points[-1].label, 20), "mark", "end")
    drawing.text(RIGHT, BOTTOM + 35, "checks, the newest at the right", "mark", "end")
    return drawing.markup()
