"""Curve of the predicted loss over the bytes of the file, with the chosen point."""

from collections.abc import Sequence

from markupsafe import Markup

from recprune_export.report.numbers import format_bytes
from recprune_export.report.scales import logarithmic_scale
from recprune_export.report.svg import WIDTH, Drawing

LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 62.0, WIDTH - 14.0, 34.0, 196.0, 240.0
LEAST_LOSS = 1e-9  # the logarithm of 0 is not on the scale
Point = tuple[int, float]


def draw_loss_curve(name: str, title: str, points: Sequence[Point], chosen: Point, *, across: str, up: str) -> Markup:
    """Draw the points (bytes, predicted loss) by increasing bytes on logarithmic axes; a diamond marks the chosen one."""
    curve = sorted((size, max(loss, LEAST_LOSS)) for size, loss in {*points, chosen})
    description = "; ".join(f"{format_bytes(size)}: predicted loss {loss:.2g}" for size, loss in curve)
    drawing = Drawing(name, title, description, HEIGHT)
    x = logarithmic_scale((size / 1e3 for size, _ in curve), LEFT, RIGHT)
    y = logarithmic_scale((loss for _, loss in curve), BOTTOM, TOP)
    for mark in y.marks():
        drawing.line(LEFT, y(mark), RIGHT, y(mark), "grid")
        drawing.text(LEFT - 6, y(mark) + 4, f"{mark:g}", "mark", "end")
    for mark in x.marks():
        drawing.line(x(mark), BOTTOM, x(mark), BOTTOM + 4, "axis")
        drawing.mark(x(mark), BOTTOM + 18, f"{mark:,g}")
    drawing.line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis")
    drawing.path([(x(size / 1e3), y(loss)) for size, loss in curve], "front")
    for size, loss in curve:
        if size == chosen[0]:
            drawing.diamond(x(size / 1e3), y(loss), 6.5, "own")
        else:
            drawing.dot(x(size / 1e3), y(loss), 4.5, "strong")
    drawing.text(2, 14, up, "mark")
    drawing.text(RIGHT, BOTTOM + 38, across, "mark", "end")
    return drawing.markup()
