"""Curve of the validation metric over the epochs of fine-tuning, with the chosen weights and those before tuning."""

from collections.abc import Sequence
from math import ceil

from markupsafe import Markup

from recprune_export.report.numbers import MINUS, format_significant
from recprune_export.report.scales import AxisScale, linear_scale
from recprune_export.report.svg import WIDTH, Drawing

LEFT, RIGHT, TOP, BOTTOM, HEIGHT = 70.0, WIDTH - 14.0, 34.0, 176.0, 214.0
MOST_MARKS = 8  # of epochs
DIGITS = 4


def draw_tuning_curve(
    name: str, title: str, epochs: Sequence[float | None], chosen: int, untuned: float | None, up: str
) -> Markup:
    """Draw the metric after each epoch, None if the weights were not a candidate; at least one value is not None.

    `untuned` is the metric before tuning, at epoch 0. `chosen` counts epochs from 1; 0 are the weights before tuning.
    """
    values = {number: value for number, value in enumerate((untuned, *epochs)) if value is not None}
    drawing = Drawing(name, title, _describe(values, chosen), HEIGHT)
    x = AxisScale(0.0, max(len(epochs), 1), LEFT + 8, RIGHT - 8)
    y = linear_scale(values.values(), BOTTOM, TOP, margin=0.14)
    _axes(drawing, x, y, up)
    if untuned is not None:
        drawing.line(x(0), y(untuned), RIGHT, y(untuned), "trend-base")
    drawing.path([(x(number), y(value)) for number, value in values.items() if number > 0], "front")
    for number, value in values.items():
        if number == chosen:
            drawing.diamond(x(number), y(value), 6.5, "own")
        else:
            drawing.dot(x(number), y(value), 4.5, "strong" if number else "hollow")
    return drawing.markup()


def _describe(values: dict[int, float], chosen: int) -> str:
    texts = [
        f"{'before tuning' if number == 0 else f'epoch {number}'}: {format_significant(value, DIGITS)}"
        + (", chosen" if number == chosen else "")
        for number, value in values.items()
    ]
    return "; ".join(texts)


def _axes(drawing: Drawing, x: AxisScale, y: AxisScale, up: str) -> None:
    marks = y.marks()
    decimals = max(len(f"{mark:.6g}".partition(".")[2]) for mark in marks)
    for mark in marks:
        drawing.line(LEFT, y(mark), RIGHT, y(mark), "grid")
        drawing.text(LEFT - 6, y(mark) + 4, f"{mark:.{decimals}f}".replace("-", MINUS), "mark", "end")
    drawing.line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis")
    last = round(x.high)
    for mark in range(0, last + 1, ceil((last + 1) / MOST_MARKS)):
        drawing.line(x(mark), BOTTOM, x(mark), BOTTOM + 4, "axis")
        drawing.mark(x(mark), BOTTOM + 18, str(mark))
    drawing.text(2, 14, up, "mark")
    drawing.text(RIGHT, BOTTOM + 34, "epoch; 0 is before tuning", "mark", "end")
