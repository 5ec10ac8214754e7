"""Plot of latency distributions, stacked on the same logarithmic axis."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from recprune_export.report.numbers import format_milliseconds
from recprune_export.report.plots.row_labels import LEFT, RIGHT, ROW, draw_row_label, draw_row_value
from recprune_export.report.scales import AxisScale, logarithmic_scale
from recprune_export.report.svg import WIDTH, Drawing

AXIS = 40.0
# First and last percentile, and the height of the bar between them.
BARS = ((1, 99, 2.0), (5, 95, 6.0), (25, 75, 14.0))


def draw_strips(
    name: str, title: str, distributions: Mapping[str, Mapping[int, float]], highlighted: Sequence[str]
) -> Markup:
    """Draw a strip for each backend; `distributions[backend][percent]` is a time in ms.

    A strip is a thin line from the 1st to the 99th percentile, a bar from the 5th to the 95th, a thick bar over the middle half
    and a mark at the median, for the percentiles that are available.
    """
    description = "; ".join(
        f"{backend}: median {format_milliseconds(percentiles[50])} ms"
        for backend, percentiles in distributions.items()
        if 50 in percentiles
    )
    height = ROW * len(distributions) + AXIS
    drawing = Drawing(name, title, description, height)
    times = [ms for percentiles in distributions.values() for percent, ms in percentiles.items() if 1 <= percent <= 99]
    scale = logarithmic_scale(times, LEFT, RIGHT)
    _axis(drawing, scale, height - AXIS)
    for number, (backend, percentiles) in enumerate(distributions.items()):
        _strip(drawing, scale, ROW * number, backend, percentiles, "strong" if backend in highlighted else "plain")
    return drawing.markup()


def _strip(
    drawing: Drawing, scale: AxisScale, top: float, backend: str, percentiles: Mapping[int, float], kind: str
) -> None:
    middle = top + ROW / 2
    draw_row_label(drawing, middle, backend, strong=kind == "strong")
    for low, high, height in BARS:
        if low in percentiles and high in percentiles:
            x_low, x_high = scale(percentiles[low]), scale(percentiles[high])
            drawing.bar(x_low, middle - height / 2, x_high - x_low, height, kind)
    if 50 in percentiles:
        draw_row_value(drawing, middle, f"{format_milliseconds(percentiles[50])} ms")
        drawing.bar(scale(percentiles[50]) - 1.25, middle - 8.5, 2.5, 17, f"{kind}-median")
    for percent in (95, 99):
        if percent in percentiles and 25 not in percentiles:
            drawing.dot(scale(percentiles[percent]), middle, 3.0, kind)


def _axis(drawing: Drawing, scale: AxisScale, y: float) -> None:
    for mark in scale.marks(most=4):
        drawing.line(scale(mark), 4, scale(mark), y + 4, "grid")
        drawing.mark(scale(mark), y + 19, f"{mark:g}")
    drawing.line(LEFT, y + 4, RIGHT, y + 4, "axis")
    drawing.text(WIDTH, y + 35, "milliseconds, logarithmic", "mark", "end")
