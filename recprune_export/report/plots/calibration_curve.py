"""Plot of calibration: the mean label of each bin over its mean prediction, dense and pruned."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from recprune_export.report.scales import AxisScale, linear_scale
from recprune_export.report.svg import WIDTH, Drawing

LEFT, RIGHT, TOP, HEIGHT, AXIS = 44.0, WIDTH - 12.0, 26.0, 260.0, 44.0

Point = tuple[float, float]  # mean prediction, mean label


def draw_calibration(name: str, title: str, curves: Mapping[str, Sequence[Point]], highlighted: str) -> Markup:
    """Draw the points of each model, the highlighted ones joined, and the diagonal on which a calibrated model lies."""
    description = "; ".join(f"{model}: {len(points)} bins" for model, points in curves.items())
    drawing = Drawing(name, title, description, HEIGHT + AXIS)
    values = [value for points in curves.values() for point in points for value in point]
    across, up = linear_scale(values, LEFT, RIGHT), linear_scale(values, HEIGHT, TOP)
    _axes(drawing, across, up)
    for number, (model, points) in enumerate(curves.items()):
        kind = "strong" if model == highlighted else "plain"
        places = [(across(predicted), up(observed)) for predicted, observed in points]
        if kind == "strong":
            drawing.path(places, "front")
        for x, y in places:
            drawing.dot(x, y, 3.5, kind)
        label = "label strong-label" if kind == "strong" else "label"
        x = LEFT + 8 + 90 * number
        drawing.dot(x, 12, 3.5, kind)
        drawing.text(x + 8, 16, model, label)
    return drawing.markup()


def _axes(drawing: Drawing, across: AxisScale, up: AxisScale) -> None:
    for mark in across.marks():
        drawing.line(across(mark), TOP, across(mark), HEIGHT, "grid")
        drawing.mark(across(mark), HEIGHT + 16, f"{mark:g}")
    for mark in up.marks():
        drawing.line(LEFT, up(mark), RIGHT, up(mark), "grid")
        drawing.text(LEFT - 6, up(mark) + 4, f"{mark:g}", "mark", "end")
    drawing.line(across(across.low), up(up.low), across(across.high), up(up.high), "zero")
    drawing.text(RIGHT, HEIGHT + 34, "mean prediction", "mark", "end")
    drawing.text(LEFT - 36, HEIGHT + 34, "upwards: mean label", "mark")
