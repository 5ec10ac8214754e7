"""Pareto curve: quality against size or speed at several sparsities."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from recprune_export.report.numbers import format_signed, format_significant
from recprune_export.report.plots.label_places import Box, LabeledPoint, place_labels
from recprune_export.report.scales import AxisScale, linear_scale, logarithmic_scale
from recprune_export.report.svg import WIDTH, Drawing

LEFT, RIGHT, TOP, BOTTOM, LEGEND, HEIGHT = 62.0, WIDTH - 14.0, 46.0, 248.0, 310.0, 318.0
KINDS = {
    "sparsity": "sparsity",
    "bytes": "% of the bytes",
    "dense int8": "dense in int8",
}  # the kinds, with their words in the legend


@dataclass(frozen=True)
class ParetoPoint:
    """A point: `cost` on the horizontal axis and the change of quality with its interval.

    `kind` chooses the shape, and `is_bundle` marks the point of the bundle.
    """

    name: str
    cost: float
    change: float
    low: float
    high: float
    is_bundle: bool = False
    kind: str = "sparsity"


def draw_pareto_curve(
    name: str,
    title: str,
    points: Sequence[ParetoPoint],
    *,
    across: str,
    up: str,
    less_is_better: bool,
    logarithmic: bool = False,
) -> Markup:
    """Draw the points with their intervals; the line joins the Pareto front. With several kinds there is a legend.

    Costs that differ by factors are read best on a `logarithmic` axis.
    """
    description = "; ".join(
        f"{p.name}: {across} {format_significant(p.cost)}, "
        f"change {format_signed(p.change)} ({format_signed(p.low)} to {format_signed(p.high)})"
        for p in points
    )
    drawing = Drawing(name, title, description, HEIGHT)
    x = (logarithmic_scale if logarithmic else linear_scale)((p.cost for p in points), LEFT, RIGHT)
    y = linear_scale([0.0, *(v for p in points for v in (p.low, p.high))], BOTTOM, TOP, margin=0.12)
    _axes(drawing, x, y, across, up)
    best = find_pareto_front(points, less_is_better)
    drawing.path([(x(p.cost), y(p.change)) for p in best], "front")
    for point in sorted(points, key=lambda point: point.is_bundle):  # the point of the bundle covers the others
        x_cost = x(point.cost)
        drawing.line(x_cost, y(point.low), x_cost, y(point.high), "own-error" if point.is_bundle else "error")
        if point.is_bundle:
            drawing.diamond(x_cost, y(point.change), 6.5, "own")
        else:
            _draw_shape(drawing, point.kind, x_cost, y(point.change), "strong" if point in best else "hollow")
    _draw_legend(drawing, [kind for kind in KINDS if any(point.kind == kind for point in points)])
    labeled = [LabeledPoint(p.name, x(p.cost), y(p.change), y(p.high), y(p.low)) for p in points]
    for label, (center, baseline) in zip(labeled, place_labels(labeled, Box(LEFT, 16.0, WIDTH, BOTTOM)), strict=True):
        drawing.text(center, baseline, label.text, "mark", "middle")
    return drawing.markup()


def _draw_shape(drawing: Drawing, kind: str, x: float, y: float, style: str) -> None:
    if kind == "bytes":
        drawing.square(x, y, 4.2, style)
    elif kind == "dense int8":
        drawing.triangle(x, y, 5.5, style)
    else:
        drawing.dot(x, y, 4.5, style)


def _draw_legend(drawing: Drawing, kinds: Sequence[str]) -> None:
    """Draw the shape of each kind with its name in a line below the axis, if there are several."""
    x = LEFT
    for kind in kinds if len(kinds) > 1 else ():
        _draw_shape(drawing, kind, x + 5, LEGEND - 4, "strong")
        drawing.text(x + 15, LEGEND, KINDS[kind], "mark")
        x += 34 + 6.4 * len(KINDS[kind])


def find_pareto_front(points: Sequence[ParetoPoint], less_is_better: bool) -> list[ParetoPoint]:
    """Return the points that no other point beats in both cost and change, by increasing cost.

    >>> a, b, c = ParetoPoint("a", 1.0, -0.3, 0, 0), ParetoPoint("b", 2.0, -0.1, 0, 0), ParetoPoint("c", 3.0, -0.2, 0, 0)
    >>> [p.name for p in find_pareto_front([c, b, a], less_is_better=True)]
    ['a', 'b']
    """
    front: list[ParetoPoint] = []
    for point in sorted(points, key=lambda p: (p.cost if less_is_better else -p.cost, -p.change)):
        if not front or point.change > front[-1].change:
            front.append(point)
    return sorted(front, key=lambda p: p.cost)


def _axes(drawing: Drawing, x: AxisScale, y: AxisScale, across: str, up: str) -> None:
    for mark in y.marks():
        drawing.line(LEFT, y(mark), RIGHT, y(mark), "zero" if mark == 0 else "grid")
        drawing.text(LEFT - 6, y(mark) + 4, format_signed(mark, "+g") if mark else "0", "mark", "end")
    for mark in x.marks():
        drawing.line(x(mark), BOTTOM, x(mark), BOTTOM + 4, "axis")
        drawing.mark(x(mark), BOTTOM + 18, f"{mark:g}")
    drawing.line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis")
    drawing.text(2, 14, up, "mark")
    drawing.text(RIGHT, BOTTOM + 36, across, "mark", "end")
